"""logmel44k and logmel32k against published implementations and against their formula in double precision."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from tests.golden.signals import signals

SPEC = get_front_end("logmel44k")
SIGNALS = signals(44_100)


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


@pytest.mark.filterwarnings("ignore:n_fft=1024 is too large")  # librosa, of the shortest one
@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_is_that_of_librosa(name: str) -> None:
    samples = SIGNALS[name]
    ours, theirs = log_mel(samples, SPEC), by_librosa(samples)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    # 1e-3 dB near a frame's peak; far below it both are float32 noise.
    near = theirs > theirs.max(axis=0) - 70
    np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3)


@pytest.mark.parametrize("name", SIGNALS)
def test_log_mel_is_that_of_double_precision(name: str) -> None:
    np.testing.assert_allclose(log_mel(SIGNALS[name], SPEC), by_float64(SIGNALS[name]), atol=0.05)


def test_log_mel_is_that_of_torchaudio() -> None:
    theirs = torchaudio.transforms.MelSpectrogram(
        44_100, n_fft=1024, hop_length=1024, n_mels=128, pad_mode="constant", norm="slaney", mel_scale="slaney"
    )(torch.from_numpy(SIGNALS["noise"]))
    theirs = 10 * torch.log10(theirs.clamp(min=1e-10))
    # Its mel filters are computed in float32: 2e-3 dB where a bin lies near a filter's corner.
    np.testing.assert_allclose(log_mel(SIGNALS["noise"], SPEC), theirs.numpy(), atol=2e-3)


def test_mel_filters_are_those_of_librosa() -> None:
    theirs = librosa.filters.mel(sr=44_100, n_fft=1024, n_mels=128, fmin=0, fmax=22_050)
    np.testing.assert_allclose(SPEC.filters(), theirs, atol=1e-8)


def test_log_mel_of_real_clips_is_that_of_librosa(shared: Path) -> None:
    """The same clips against double precision: silences and pure tones of real recordings are hard on float32."""
    paths = sorted((shared / "data" / "esc10" / "audio").glob("*/*.ogg"))[::40]
    if not paths:
        pytest.skip("needs data/esc10 below AUDIOCLF_SHARED")
    for path in paths:
        samples, _ = soundfile.read(path, dtype="float32")
        ours, theirs = log_mel(samples, SPEC), by_librosa(samples)
        near = theirs > theirs.max(axis=0) - 70
        np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3, err_msg=path.name)
        np.testing.assert_allclose(ours, by_float64(samples), atol=0.05, err_msg=path.name)


def test_mfcc44k_is_that_of_librosa() -> None:
    spec = get_front_end("mfcc44k")
    for name in ("noise", "tone in noise", "chirp"):
        picture = log_mel(SIGNALS[name], SPEC)
        theirs = librosa.feature.mfcc(S=picture, n_mfcc=20)
        # Coefficients reach 1000 and are sums of 128 float32 numbers: 1e-6 of that.
        np.testing.assert_allclose(log_mel(SIGNALS[name], spec), theirs, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(theirs, librosa.feature.mfcc(S=by_librosa(SIGNALS[name]), n_mfcc=20), atol=0.05)


@pytest.mark.filterwarnings("ignore:n_fft=1024 is too large")  # librosa, of the shortest one
@pytest.mark.parametrize("name", SIGNALS)
def test_logmel32k_is_that_of_librosa(name: str) -> None:
    samples = SIGNALS[name]
    power = librosa.feature.melspectrogram(
        y=samples, sr=32_000, n_fft=1024, hop_length=640, n_mels=64, fmin=50, fmax=16_000, pad_mode="constant"
    )
    ours, theirs = log_mel(samples, get_front_end("logmel32k")), librosa.power_to_db(power, amin=1e-7, top_db=None)
    near = theirs > theirs.max(axis=0) - 70  # as above
    np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3)
    assert ours.min() >= -70.0001
