"""Front ends of other shapes against librosa: overlapping and short windows, other ranges, other rates."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from audioclf.audio.frontend import FrontEnd, get_front_end, log_mel, mel_filters

SPECS = [
    FrontEnd("overlapping", 44_100, 1024, 1024, 256, 128, 0.0, 22_050.0),
    FrontEnd("short window", 32_000, 1024, 800, 320, 128, 0.0, 15_000.0),
    FrontEnd("speech", 16_000, 512, 400, 160, 64, 60.0, 7_600.0),
    FrontEnd("above the scale's break", 48_000, 2048, 2048, 512, 40, 1_200.0, 24_000.0),
    FrontEnd("below it", 8_000, 1024, 1024, 1024, 20, 10.0, 900.0),
]


def by_librosa(samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples, sr=spec.sample_rate, n_fft=spec.n_fft, win_length=spec.win_length, hop_length=spec.hop_length,
        n_mels=spec.n_mels, fmin=spec.f_min_hz, fmax=spec.f_max_hz, pad_mode="constant",
    )  # fmt: skip
    return librosa.power_to_db(power, top_db=None)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_log_mel_is_that_of_librosa(spec: FrontEnd) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=20_001).astype(np.float32)
    # White noise has no band far below the rest: float32 sums agree to 1e-3 dB everywhere.
    np.testing.assert_allclose(log_mel(samples, spec), by_librosa(samples, spec), atol=1e-3)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_mel_filters_are_those_of_librosa(spec: FrontEnd) -> None:
    theirs = librosa.filters.mel(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.f_min_hz, fmax=spec.f_max_hz
    )
    np.testing.assert_allclose(mel_filters(spec), theirs, rtol=1e-4, atol=1e-8)


def test_five_seconds_of_each_real_class_have_the_shape_and_values_of_librosa(shared: Path) -> None:
    folders = sorted(path for path in (shared / "data" / "esc10" / "audio").glob("*") if path.is_dir())
    if not folders:
        pytest.skip("needs data/esc10 below AUDIOCLF_SHARED")
    spec = get_front_end("logmel44k")
    for folder in folders:
        samples, rate = soundfile.read(min(folder.glob("*.ogg")), dtype="float32")
        assert rate == 44_100
        ours, theirs = log_mel(samples, spec), by_librosa(samples, spec)
        assert ours.shape == theirs.shape == (128, 1 + len(samples) // 1024)
        near = theirs > theirs.max(axis=0) - 70  # below that both are float32 noise
        np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3, err_msg=folder.name)
