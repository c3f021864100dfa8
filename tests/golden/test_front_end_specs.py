"""Front ends of other shapes against librosa, torchaudio and double precision: every field away from its default."""

from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.log_mel import log_mel
from tests.golden import reference
from tests.golden.signals import geometries, signals

OVERLAPPING = FrontEnd("overlapping", 44_100, 1024, 1024, 256, 128, 0.0, 22_050.0)
SPEECH = FrontEnd("speech", 16_000, 512, 400, 160, 40, 60.0, 7_600.0)
SPECS = [
    OVERLAPPING,
    SPEECH,
    FrontEnd("short window", 32_000, 1024, 800, 320, 128, 0.0, 15_000.0),
    FrontEnd("window of odd length", 16_000, 512, 401, 173, 40, 60.0, 7_600.0),
    FrontEnd("above the scale's break", 48_000, 2048, 2048, 512, 40, 1_200.0, 24_000.0),
    FrontEnd("below it", 8_000, 1024, 1024, 1024, 20, 10.0, 900.0),
    FrontEnd("hop beyond the window", 44_100, 1024, 1024, 1500, 64, 20.0, 20_000.0),
    replace(OVERLAPPING, name="mirrored", pad_mode="reflect"),
    replace(SPEECH, name="mirrored, short window", pad_mode="reflect"),
    replace(SPEECH, name="not centred", center=False, win_length=512),
    replace(SPEECH, name="magnitude", power=1.0),
    replace(SPEECH, name="HTK", mel_scale="htk"),
    replace(SPEECH, name="HTK, height 1", mel_scale="htk", mel_norm="none"),
    replace(SPEECH, name="bounded below", top_db=12.0),
    replace(SPEECH, name="MFCC", n_mfcc=13),
]
ODDER = [
    replace(SPEECH, name="symmetric window", periodic_window=False),
    replace(SPEECH, name="short and not centred", center=False),
    replace(SPEECH, name="pre-emphasis", pre_emphasis=0.97),
    replace(SPEECH, name="pre-emphasis, mirrored, not centred", pre_emphasis=0.5, pad_mode="reflect", center=False),
    replace(SPEECH, name="natural logarithm", log="ln", floor=0.0, log_offset=0.01),
    replace(SPEECH, name="standardised", mean=-40.0, std=12.0),
    replace(SPEECH, name="standardised MFCC of a bounded picture", top_db=20.0, n_mfcc=20, mean=1.0, std=2.0),
    FrontEnd("one filter of all bins", 16_000, 882, 882, 441, 1, 0.0, 8_000.0),
    FrontEnd("few bins", 16_000, 16, 15, 8, 3, 0.0, 8_000.0),
]


def by_librosa(samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    power = librosa.feature.melspectrogram(
        y=samples, sr=spec.sample_rate, n_fft=spec.n_fft, win_length=spec.win_length, hop_length=spec.hop_length,
        n_mels=spec.n_mels, fmin=spec.f_min_hz, fmax=spec.f_max_hz, center=spec.center, pad_mode=spec.pad_mode,
        power=spec.power, htk=spec.mel_scale == "htk", norm="slaney" if spec.mel_norm == "slaney" else None,
    )  # fmt: skip
    picture = librosa.power_to_db(power, top_db=spec.top_db)
    return librosa.feature.mfcc(S=picture, n_mfcc=spec.n_mfcc) if spec.n_mfcc else picture


def librosa_filters(spec: FrontEnd) -> np.ndarray:
    return librosa.filters.mel(
        sr=spec.sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, fmin=spec.f_min_hz, fmax=spec.f_max_hz,
        htk=spec.mel_scale == "htk", norm="slaney" if spec.mel_norm == "slaney" else None, dtype=np.float64,
    )  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_log_mel_is_that_of_librosa(spec: FrontEnd) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=20_001).astype(np.float32)
    ours = log_mel(samples, spec)
    assert ours.shape == (spec.n_features, spec.n_frames(len(samples)))
    assert ours.flags.c_contiguous
    # White noise has no band far below the rest: float32 sums agree to 1e-3 dB everywhere.
    np.testing.assert_allclose(ours, by_librosa(samples, spec), atol=1e-3)


@pytest.mark.parametrize("spec", [*SPECS, *ODDER], ids=lambda spec: spec.name)
@pytest.mark.parametrize("name", ["noise", "tone in noise", "chirp", "click", "silence"])
def test_log_mel_is_that_of_double_precision(spec: FrontEnd, name: str) -> None:
    samples = signals(spec.sample_rate)[name]
    exact = reference.picture(samples, spec, librosa_filters(spec))
    # 0.05 dB of a band; a cosine coefficient sums 40 bands, each with a factor of at most sqrt(2 / 40).
    np.testing.assert_allclose(log_mel(samples, spec), exact, atol=0.45 if spec.n_mfcc else 0.05)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_mel_filters_are_those_of_librosa(spec: FrontEnd) -> None:
    np.testing.assert_allclose(spec.filters(), librosa_filters(spec), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("f_min_hz", [20.0, 125.0])
def test_filters_in_mel_are_those_of_kaldi(f_min_hz: float) -> None:
    spec = replace(SPEECH, f_min_hz=f_min_hz, mel_scale="htk", mel_norm="none", mel_triangles="mel")
    theirs, _ = torchaudio.compliance.kaldi.get_mel_banks(40, 512, 16_000.0, f_min_hz, 7_600.0, 100.0, -500.0, 1.0)
    # Theirs are computed in float32, on a scale that reaches 2840: 1e-7 of that beside corners 60 apart.
    np.testing.assert_allclose(spec.filters()[:, :-1], theirs.numpy(), atol=2e-5)
    assert not spec.filters()[:, -1].any()


@pytest.mark.parametrize("norm", ["slaney", "none"])
def test_log_mel_on_the_htk_scale_is_that_of_torchaudio(norm: str) -> None:
    spec = replace(SPEECH, pad_mode="reflect", mel_scale="htk", mel_norm=norm)
    samples = signals(16_000)["noise"]
    theirs = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, f_min=60.0, f_max=7_600.0, n_mels=40,
        norm="slaney" if norm == "slaney" else None, mel_scale="htk",
    )(torch.from_numpy(samples))  # fmt: skip
    theirs = 10 * torch.log10(theirs.clamp(min=1e-10))
    # Its filters are computed in float32: 2e-3 dB where a bin lies near a filter's corner.
    np.testing.assert_allclose(log_mel(samples, spec), theirs.numpy(), atol=2e-3)


@settings(max_examples=150, deadline=None)
@given(spec=geometries(), n_samples=st.integers(1, 3_000))
def test_any_geometry_is_that_of_double_precision(spec: FrontEnd, n_samples: int) -> None:
    """Frames that begin too early, end too late or both, segments of a few samples, blocks that end anywhere."""
    samples = np.random.default_rng(n_samples).normal(scale=0.1, size=n_samples).astype(np.float32)
    exact = reference.picture(samples, spec, spec.filters())
    np.testing.assert_allclose(log_mel(samples, spec), exact, atol=0.05)


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
