"""The log-mel kernel of one 5 s clip on one core, against librosa and torchaudio in the same run."""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
import time
from collections.abc import Callable

import librosa
import numpy as np
import torch
import torchaudio

from audioclf.audio.frontend import get_front_end, log_mel

ROUNDS, CALLS = 9, 20


def by_librosa(samples: np.ndarray) -> np.ndarray:
    power = librosa.feature.melspectrogram(y=samples, sr=44_100, n_fft=1024, hop_length=1024, pad_mode="constant")
    return librosa.power_to_db(power, top_db=None)


def main() -> None:
    torch.set_num_threads(1)
    spec = get_front_end("logmel44k")
    samples = np.random.default_rng(0).normal(scale=0.1, size=5 * 44_100).astype(np.float32)
    waveform = torch.from_numpy(samples)
    mel = torchaudio.transforms.MelSpectrogram(
        44_100, n_fft=1024, hop_length=1024, n_mels=128, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )
    kernels: dict[str, Callable[[], object]] = {
        "audioclf": lambda: log_mel(samples, spec),
        "librosa": lambda: by_librosa(samples),
        "torchaudio": lambda: 10 * torch.log10(mel(waveform).clamp(min=1e-10)),
    }
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for _ in range(ROUNDS):  # interleaved: the machine's speed drifts
        for name, kernel in kernels.items():
            kernel()
            began = time.perf_counter()
            for _ in range(CALLS):
                kernel()
            times[name].append((time.perf_counter() - began) / CALLS * 1e3)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name:12s} {value:6.2f} ms a clip, ours is {medians['audioclf'] / value:.2f} of it")


if __name__ == "__main__":
    main()
