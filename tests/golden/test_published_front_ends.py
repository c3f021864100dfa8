"""The named front ends against the published computations that they repeat."""

from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import torchaudio

from audioclf.audio.frontend import FRONT_ENDS, FrontEnd, get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.torch_front_end import EFFICIENTAT_JITTER, TorchFrontEnd
from tests.golden import reference
from tests.golden.signals import signals

PANNS = [get_front_end("panns32k"), get_front_end("panns16k")]
EFFICIENTAT, YAMNET = get_front_end("efficientat32k"), get_front_end("yamnet16k")
SOUNDS = ["noise", "quiet noise", "tone in noise", "chirp", "click", "silence"]


@pytest.mark.parametrize("spec", PANNS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("name", SOUNDS)
def test_panns_are_librosas_pictures(spec: FrontEnd, name: str) -> None:
    samples = signals(spec.sample_rate)[name]
    window = spec.n_fft
    power = librosa.feature.melspectrogram(
        y=samples, sr=spec.sample_rate, n_fft=window, win_length=window, hop_length=spec.sample_rate // 100,
        n_mels=64, fmin=50, fmax={32_000: 14_000, 16_000: 8_000}[spec.sample_rate], pad_mode="reflect",
    )  # fmt: skip
    theirs = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
    ours = log_mel(samples, spec)
    assert ours.shape == theirs.shape
    near = theirs > theirs.max(axis=0) - 70
    np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3)
    np.testing.assert_allclose(ours, theirs, atol=0.05)  # float32's limit, far below a frame's peak


@pytest.mark.parametrize("spec", PANNS, ids=lambda spec: spec.name)
def test_panns_are_torchaudios_pictures(spec: FrontEnd) -> None:
    samples = signals(spec.sample_rate)["noise"]
    theirs = torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, f_min=50.0, f_max=spec.f_max_hz, n_mels=64,
        pad_mode="reflect", norm="slaney", mel_scale="slaney",
    )(torch.from_numpy(samples))  # fmt: skip
    # Its filters are computed in float32: 2e-3 dB where a bin lies near a filter's corner.
    np.testing.assert_allclose(log_mel(samples, spec), 10 * torch.log10(theirs.clamp(min=1e-10)).numpy(), atol=2e-3)


def by_kaldi_and_torch(samples: np.ndarray, f_min_hz: float = 0.0, f_max_hz: float = 15_000.0) -> np.ndarray:
    """EfficientAT's evaluation: torch's STFT and torchaudio's port of Kaldi's filters."""
    sound = torch.from_numpy(samples)
    sound = sound[1:] - 0.97 * sound[:-1]
    window = torch.hann_window(800, periodic=False)
    spectra = torch.stft(sound, 1024, hop_length=320, win_length=800, window=window, center=True, return_complex=True)
    banks, _ = torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32_000.0, f_min_hz, f_max_hz, 100.0, -500.0, 1.0)
    mel = torch.nn.functional.pad(banks, (0, 1)) @ spectra.abs().square()
    return ((torch.log(mel + 1e-5) + 4.5) / 5).numpy()


def with_kaldis_filters(monkeypatch: pytest.MonkeyPatch) -> FrontEnd:
    """EfficientAT with the filters as torchaudio rounds them: it computes their corners in float32.

    That moves a filter's weights by up to 2e-5, the more felt the steeper the spectrum is between two filters.
    """
    banks, _ = torchaudio.compliance.kaldi.get_mel_banks(128, 1024, 32_000.0, 0.0, 15_000.0, 100.0, -500.0, 1.0)
    filters = np.pad(banks.numpy(), ((0, 0), (0, 1)))
    np.testing.assert_allclose(EFFICIENTAT.filters(), filters, atol=2e-5)
    monkeypatch.setattr(FrontEnd, "filters", lambda spec: filters)
    return replace(EFFICIENTAT, name="with Kaldi's filters")


@pytest.mark.parametrize("name", SOUNDS)
def test_efficientat_is_kaldis_filters_on_torchs_stft(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = signals(32_000)[name]
    theirs = by_kaldi_and_torch(samples)
    # A fifth of ln: 1e-4 is 2e-3 dB, what float32 is good for above the offset of 1e-5; 5e-4 for rounded corners.
    np.testing.assert_allclose(log_mel(samples, EFFICIENTAT), theirs, atol=5e-4)
    np.testing.assert_allclose(log_mel(samples, with_kaldis_filters(monkeypatch)), theirs, atol=3e-4)


def test_efficientat_is_what_the_published_code_made_of_real_clips(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shared / "weights" / "mn04_reference.npz"
    if not path.is_file():
        pytest.skip("needs weights/mn04_reference.npz below AUDIOCLF_SHARED")
    with np.load(path) as stored:
        waveforms, theirs = stored["waveform"], stored["log_mel"]
    assert theirs.shape == (4, 128, 500)
    ours = np.stack([log_mel(waveform, EFFICIENTAT) for waveform in waveforms])
    # 1e-4, but for a few in 10,000 that rounded corners move by up to 2e-4.
    np.testing.assert_allclose(ours, theirs, atol=2.5e-4)
    assert np.mean(np.abs(ours - theirs) < 1e-4) > 0.9999
    rounded = with_kaldis_filters(monkeypatch)
    np.testing.assert_allclose([log_mel(waveform, rounded) for waveform in waveforms], theirs, atol=1e-4)


def test_on_torch_it_is_so_too(shared: Path) -> None:
    path = shared / "weights" / "mn04_reference.npz"
    if not path.is_file():
        pytest.skip("needs weights/mn04_reference.npz below AUDIOCLF_SHARED")
    with np.load(path) as stored:
        waveforms, theirs = stored["waveform"], stored["log_mel"]
    ours = TorchFrontEnd(EFFICIENTAT)(torch.from_numpy(waveforms)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2.5e-4)  # as above


def test_jittered_it_is_kaldis_filters_of_another_range() -> None:
    """As EfficientAT is trained: the range of the filters is drawn for each batch."""
    front_end, samples = TorchFrontEnd(EFFICIENTAT, EFFICIENTAT_JITTER), signals(32_000)["noise"]
    for seed in range(3):
        torch.manual_seed(seed)
        (ours,) = front_end(torch.from_numpy(samples)[None]).numpy()
        torch.manual_seed(seed)
        theirs = by_kaldi_and_torch(samples, torch.randint(0, 10, ()).item(), torch.randint(14_001, 16_001, ()).item())
        np.testing.assert_allclose(ours, theirs, atol=5e-4)  # as without jitter


def tensorflow_mel_weights() -> np.ndarray:
    """[64, 257] by the documented formula of tf.signal.linear_to_mel_weight_matrix, in double precision."""

    def mel(hz: float) -> float:
        return 1127 * np.log(1 + hz / 700)

    corners = np.linspace(mel(125), mel(7500), 66)
    weights = np.zeros((64, 257))
    for band in range(64):
        lower, centre, upper = corners[band : band + 3]
        for k in range(1, 257):  # the bin of 0 Hz belongs to no filter
            m = mel(k * 16_000 / 512)
            weights[band, k] = max(0, min((m - lower) / (centre - lower), (upper - m) / (upper - centre)))
    return weights


@pytest.mark.parametrize("name", SOUNDS)
def test_yamnet_is_tensorflows_formula(name: str) -> None:
    samples = signals(16_000)[name].astype(np.float64)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [samples[start : start + 400] * window for start in range(0, len(samples) - 399, 160)]
    magnitude = np.abs(np.fft.rfft(frames, n=512))
    theirs = np.log(magnitude @ tensorflow_mel_weights().T + 0.001).T
    ours = log_mel(samples.astype(np.float32), YAMNET)
    assert ours.shape == theirs.shape == (64, 198)
    # As in dB: 1e-3 dB within 70 dB of a frame's peak, 0.05 dB elsewhere; a dB of magnitude is 0.115 of ln.
    near = theirs > theirs.max(axis=0) - 70 * 0.115
    np.testing.assert_allclose(ours[near], theirs[near], atol=1e-3 * 0.115)
    np.testing.assert_allclose(ours, theirs, atol=0.05 * 0.115)


def test_yamnet_filters_are_tensorflows() -> None:
    np.testing.assert_allclose(YAMNET.filters(), tensorflow_mel_weights(), atol=1e-6)


@pytest.mark.parametrize("spec", FRONT_ENDS.values(), ids=lambda spec: spec.name)
def test_each_named_front_end_is_its_formula_in_double_precision(spec: FrontEnd) -> None:
    for name, samples in signals(spec.sample_rate).items():
        exact = reference.picture(samples, spec, spec.filters().astype(np.float64))
        # 0.05 dB of a band; a cosine coefficient sums 128 bands, each with a factor of at most 1/8.
        bound = 0.8 if spec.n_mfcc else 0.05
        np.testing.assert_allclose(log_mel(samples, spec), exact, atol=bound, err_msg=name)
