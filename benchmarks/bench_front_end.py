"""logmel44k of one 5 s clip on one core against librosa and torchaudio, in time and in values.

Exits 1 if a required bound is missed: on the medians of the time, kernels in turn, and on the worst error over sounds
that are hard on single precision.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import statistics
import sys
import time
from collections.abc import Callable

import librosa
import numpy as np
import scipy.signal
import torch
import torchaudio

from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel

ROUNDS, CALLS = 15, 20
SPEC = get_front_end("logmel44k")
REQUIRED = {"librosa": 0.30, "torchaudio": 0.50}  # of their time
AIMED = {"librosa": 0.20, "torchaudio": 0.35}
NEAR_DB = 70  # below a frame's peak
MAX_ERROR_DB = {"librosa, near the peak": 1e-3, "float64, everywhere": 0.05}


def by_librosa(samples: np.ndarray) -> np.ndarray:
    power = librosa.feature.melspectrogram(y=samples, sr=44_100, n_fft=1024, hop_length=1024, pad_mode="constant")
    return librosa.power_to_db(power, top_db=None)


def by_float64(samples: np.ndarray) -> np.ndarray:
    padded = np.pad(samples.astype(np.float64), 512)
    frames = padded[: len(padded) // 1024 * 1024].reshape(-1, 1024)
    power = np.abs(np.fft.rfft(frames * scipy.signal.get_window("hann", 1024))) ** 2
    filters = librosa.filters.mel(sr=44_100, n_fft=1024, n_mels=128, dtype=np.float64)
    return 10 * np.log10(np.maximum(filters @ power.T, 1e-10))


def clips() -> dict[str, np.ndarray]:
    """5 s each, [220500] float32."""
    time_s = np.arange(5 * 44_100) / 44_100
    noise = np.random.default_rng(0).normal(scale=0.1, size=len(time_s))
    sounds = {
        "noise": noise,
        "tone in noise": 0.5 * np.sin(2 * np.pi * 440 * time_s) + 0.01 * noise,
        "fading noise": noise * np.exp(-3 * time_s),
        "chirp": scipy.signal.chirp(time_s, 20, 5, 20_000),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


def kernels(samples: np.ndarray, hard: np.ndarray) -> dict[str, Callable[[], object]]:
    waveform = torch.from_numpy(samples)
    mel = torchaudio.transforms.MelSpectrogram(
        44_100, n_fft=1024, hop_length=1024, n_mels=128, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )
    return {
        "audioclf": lambda: log_mel(samples, SPEC),
        "librosa": lambda: by_librosa(samples),
        "torchaudio": lambda: 10 * torch.log10(mel(waveform).clamp(min=1e-10)),
        "audioclf on a chirp, whose frames it computes again in float64": lambda: log_mel(hard, SPEC),
    }


def milliseconds(timed: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of a call."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(ROUNDS):  # interleaved: the machine's speed drifts
        for name, kernel in timed.items():
            kernel()
            began = time.perf_counter()
            for _ in range(CALLS):
                kernel()
            times[name].append((time.perf_counter() - began) / CALLS * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def errors_db(samples: np.ndarray) -> dict[str, float]:
    ours, theirs, exact = log_mel(samples, SPEC), by_librosa(samples), by_float64(samples)
    near = theirs > theirs.max(axis=0) - NEAR_DB
    return {
        "librosa, near the peak": float(np.abs(ours - theirs)[near].max()),
        "float64, everywhere": float(np.abs(ours - exact).max()),
    }


def main() -> int:
    torch.set_num_threads(1)
    sounds = clips()
    took = milliseconds(kernels(sounds["noise"], sounds["chirp"]))
    for name, value in took.items():
        print(f"{value:7.3f} ms a clip  {name}")
    missed = []
    for peer, required in REQUIRED.items():
        ratio = took["audioclf"] / took[peer]
        print(f"time / {peer}: {ratio:.3f} (required {required:.2f}, aimed {AIMED[peer]:.2f})")
        missed += [f"time / {peer}"] * (ratio > required)
    errors = {name: errors_db(samples) for name, samples in sounds.items()}
    for against, bound in MAX_ERROR_DB.items():
        clip = max(errors, key=lambda name: errors[name][against])
        print(f"error against {against}: {errors[clip][against]:.1e} dB on the {clip} (required {bound:.0e} dB)")
        missed += [f"error against {against}"] * (errors[clip][against] > bound)
    print(f"missed: {', '.join(missed)}" if missed else "every required bound is kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
