"""The front end against published implementations."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from audioclf.audio.frontend import get_front_end, log_mel, mel_filters

SPEC = get_front_end("logmel44k")


def by_librosa(samples: np.ndarray) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples, sr=44_100, n_fft=1024, hop_length=1024, win_length=1024, n_mels=128, pad_mode="constant"
    )
    return librosa.power_to_db(power, top_db=None)


def by_float64(samples: np.ndarray) -> np.ndarray:
    """The definition, in double precision."""
    padded = np.pad(samples.astype(np.float64), 512)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = [padded[i : i + 1024] * window for i in range(0, len(padded) - 1023, 1024)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    filters = librosa.filters.mel(sr=44_100, n_fft=1024, n_mels=128, dtype=np.float64)
    return 10 * np.log10(np.maximum(filters @ power.T, 1e-10))


def signals() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    time = np.arange(44_100 * 2) / 44_100
    noise = rng.normal(scale=0.1, size=len(time))
    return {
        "noise": noise.astype(np.float32),
        "tone in noise": (0.5 * np.sin(2 * np.pi * 440 * time) + 0.01 * noise).astype(np.float32),
        "chirp": librosa.chirp(fmin=50, fmax=20_000, sr=44_100, duration=2).astype(np.float32),
        "one sample more than a hop": noise[:1025].astype(np.float32),
        "shorter than a window": noise[:100].astype(np.float32),
    }


@pytest.mark.filterwarnings("ignore:n_fft=1024 is too large")  # librosa, of the shortest one
@pytest.mark.parametrize("name", signals())
def test_log_mel_is_that_of_librosa(name: str) -> None:
    samples = signals()[name]
    ours, theirs = log_mel(samples, SPEC), by_librosa(samples)
    assert ours.shape == theirs.shape
    # 1e-3 dB near a frame's peak; far below it both are float32 noise.
    near = theirs > theirs.max(axis=0) - 70
    np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3)


@pytest.mark.parametrize("name", ["noise", "tone in noise", "shorter than a window"])
def test_log_mel_is_that_of_double_precision(name: str) -> None:
    samples = signals()[name]
    np.testing.assert_allclose(log_mel(samples, SPEC), by_float64(samples), atol=0.05)


def test_log_mel_is_that_of_torchaudio() -> None:
    samples = signals()["noise"]
    theirs = torchaudio.transforms.MelSpectrogram(
        44_100, n_fft=1024, hop_length=1024, n_mels=128, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )(torch.from_numpy(samples))
    theirs = 10 * torch.log10(theirs.clamp(min=1e-10))
    np.testing.assert_allclose(log_mel(samples, SPEC), theirs.numpy(), atol=2e-3)


def test_mel_filters_are_those_of_librosa() -> None:
    theirs = librosa.filters.mel(sr=44_100, n_fft=1024, n_mels=128, fmin=0, fmax=22_050)
    np.testing.assert_allclose(mel_filters(SPEC), theirs, atol=1e-8)


def test_log_mel_of_real_clips_is_that_of_librosa(shared: Path) -> None:
    for path in sorted((shared / "data" / "esc10" / "audio").glob("*/*.ogg"))[::40]:
        samples, _ = soundfile.read(path, dtype="float32")
        ours, theirs = log_mel(samples, SPEC), by_librosa(samples)
        near = theirs > theirs.max(axis=0) - 70
        np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3, err_msg=path.name)
