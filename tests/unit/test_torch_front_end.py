"""The front end on torch: each row the picture that log_mel makes of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audioclf import torch_front_end
from audioclf.audio.frontend import FRONT_ENDS, FrontEnd, get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import from_int16
from audioclf.errors import ConfigError
from audioclf.torch_front_end import EFFICIENTAT_JITTER, MelJitter, TorchFrontEnd, to_waveforms
from tests.golden.signals import geometries, signals

EFFICIENTAT = get_front_end("efficientat32k")
SPEECH = FrontEnd("speech", 16_000, 512, 400, 160, 40, 60.0, 7_600.0)
OTHERS = [
    replace(SPEECH, name="window of odd length", win_length=401, hop_length=173),
    replace(SPEECH, name="hop beyond the window", hop_length=700),
    replace(SPEECH, name="mirrored", pad_mode="reflect"),
    replace(SPEECH, name="symmetric window", periodic_window=False),
    replace(SPEECH, name="pre-emphasis, not centred", pre_emphasis=0.5, center=False),
    replace(SPEECH, name="magnitude", power=1.0),
    replace(SPEECH, name="HTK", mel_scale="htk", mel_norm="none"),
    replace(SPEECH, name="natural logarithm", log="ln", floor=0.0, log_offset=0.01),
    replace(SPEECH, name="bounded below", top_db=12.0),
    replace(SPEECH, name="standardised", mean=-40.0, std=12.0),
    replace(SPEECH, name="empty filters", n_mels=128, mel_scale="htk"),
    replace(SPEECH, name="MFCC", n_mfcc=13),
    replace(SPEECH, name="standardised MFCC of a bounded picture", top_db=20.0, n_mfcc=20, mean=1.0, std=2.0),
]


def noise(n: int, n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n, n_samples, generator=torch.Generator().manual_seed(seed))


def db(spec: FrontEnd, amount_db: float) -> float:
    """10·log10 of a factor between two values before the logarithm → a difference of a front end's pictures."""
    return amount_db * (1.0 if spec.log == "db" else math.log(10) / 10) / spec.std


def by_numpy(waveforms: torch.Tensor, spec: FrontEnd) -> np.ndarray:
    return np.stack([log_mel(row, spec) for row in waveforms.numpy()])


def assert_like_numpy(waveforms: torch.Tensor, spec: FrontEnd, within_db: float = 1e-3) -> None:
    ours, theirs = TorchFrontEnd(spec)(waveforms), by_numpy(waveforms, spec)
    assert ours.dtype == torch.float32
    assert ours.shape == theirs.shape
    assert ours.is_contiguous()
    # Further below their frame's peak, values are float32's own noise, and log_mel takes float64 for some.
    near = theirs > theirs.max(axis=1, keepdims=True) - db(spec, 70 * spec.power / 2)
    assert near.any()
    np.testing.assert_allclose(ours.numpy()[near], theirs[near], atol=db(spec, within_db), rtol=0)


@pytest.mark.parametrize("spec", [*FRONT_ENDS.values(), *OTHERS], ids=lambda spec: spec.name)
def test_each_row_is_the_picture_of_log_mel(spec: FrontEnd) -> None:
    sounds = signals(spec.sample_rate)
    sounds["tone"] = np.sin(2 * np.pi * 1000 / spec.sample_rate * np.arange(spec.sample_rate)).astype(np.float32)
    del sounds["chirp"]  # where it is above f_max_hz, a frame's peak is in no band
    for name, samples in sounds.items():
        if not spec.n_mfcc or "noise" in name:  # a coefficient of tones has bands in it that only noise decides
            assert_like_numpy(torch.from_numpy(np.stack([samples, samples[::-1]])), spec)


@pytest.mark.parametrize("spec", FRONT_ENDS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("n_samples", [0, 1, 2, 3, 399, 513])
def test_a_segment_shorter_than_a_window_is_a_picture(spec: FrontEnd, n_samples: int) -> None:
    assert_like_numpy(noise(2, n_samples), spec)


@settings(max_examples=100, deadline=None)
@given(spec=geometries(), n_samples=st.integers(1, 3_000))
def test_any_geometry_is_that_of_log_mel(spec: FrontEnd, n_samples: int) -> None:
    # A band of few bins, 70 dB below a constant segment's peak, is right to 1e-3: 3e-7 of that peak.
    assert_like_numpy(noise(2, n_samples, n_samples), spec, within_db=0.01)


@pytest.mark.parametrize("block", [1, 3 * 501 * 1024, 1 << 40])
def test_it_does_not_matter_which_rows_are_computed_at_once(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_front_end._BLOCK_SAMPLES, "cpu", block)
    assert_like_numpy(noise(7, 160_000), get_front_end("panns32k"))


def test_no_rows_are_no_pictures() -> None:
    assert TorchFrontEnd(EFFICIENTAT)(torch.empty(0, 32_000)).shape == (0, 128, 100)


@pytest.mark.parametrize("spec", [EFFICIENTAT, OTHERS[-3]], ids=lambda spec: spec.name)
def test_on_any_device_the_filters_are_those_of_the_front_end(spec: FrontEnd) -> None:
    bins = torch.eye(1 + spec.n_fft // 2)
    in_bands = [bins[:, some] @ weights for some, weights in torch_front_end._filters(spec, torch.device("cpu"))]
    assert len(in_bands) == 8
    np.testing.assert_array_equal(torch.cat(in_bands, 1).numpy().T, spec.filters())
    ((every, weights),) = torch_front_end._filters(spec, torch.device("meta"))
    assert every == slice(None)
    assert weights.shape == spec.filters().T.shape


def test_autocast_changes_nothing() -> None:
    front_end, waveforms = TorchFrontEnd(EFFICIENTAT), noise(2, 32_000)
    expected = front_end(waveforms)
    with torch.autocast("cpu", torch.bfloat16):
        got = front_end(waveforms)
        assert torch.is_autocast_enabled("cpu")
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_it_has_no_weights_and_keeps_no_gradients() -> None:
    front_end = TorchFrontEnd(EFFICIENTAT)
    assert not front_end.state_dict()
    assert not [*front_end.parameters()]
    assert not front_end(noise(1, 32_000).requires_grad_()).requires_grad


def test_the_waveforms_are_left_as_they_are() -> None:
    waveforms = noise(2, 32_000)
    before = waveforms.clone()
    for spec in FRONT_ENDS.values():
        TorchFrontEnd(spec)(waveforms)
    assert torch.equal(waveforms, before)


def test_stored_waveforms_are_what_numpy_reads() -> None:
    pcm = np.array([[[-32_768, -1, 0, 1, 32_767]]], np.int16)
    np.testing.assert_array_equal(to_waveforms(torch.from_numpy(pcm)).numpy(), from_int16(pcm[:, 0]))
    assert to_waveforms(torch.from_numpy(pcm))[0, 0] == -1


# --- jitter


def test_a_jittered_batch_is_that_of_the_jittered_front_end() -> None:
    front_end, waveforms = TorchFrontEnd(EFFICIENTAT, EFFICIENTAT_JITTER), noise(2, 32_000)
    ranges = set()
    for seed in range(5):
        torch.manual_seed(seed)
        got = front_end(waveforms)
        torch.manual_seed(seed)
        f_min_hz, f_max_hz = int(torch.randint(0, 10, ())), int(torch.randint(14_001, 16_001, ()))
        ranges.add((f_min_hz, f_max_hz))
        spec = replace(EFFICIENTAT, f_min_hz=float(f_min_hz), f_max_hz=float(f_max_hz))
        assert torch.equal(got, TorchFrontEnd(spec)(waveforms))
    assert len(ranges) == 5


def test_both_bounds_of_the_jitter_are_drawn() -> None:
    front_end = TorchFrontEnd(EFFICIENTAT, MelJitter((0, 2), (15_998, 16_000)))
    torch.manual_seed(0)
    drawn = [front_end._drawn_spec() for _ in range(100)]
    assert {spec.f_min_hz for spec in drawn} == {0, 1, 2}
    assert {spec.f_max_hz for spec in drawn} == {15_998, 15_999, 16_000}


@pytest.mark.parametrize("jitter", [None, EFFICIENTAT_JITTER])
def test_nothing_is_drawn_without_jitter_or_in_evaluation(jitter: MelJitter | None) -> None:
    front_end, waveforms = TorchFrontEnd(EFFICIENTAT, jitter), noise(2, 32_000)
    if jitter:
        front_end.eval()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert torch.equal(front_end(waveforms), TorchFrontEnd(EFFICIENTAT)(waveforms))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "jitter",
    [
        MelJitter((-1, 9), (14_001, 16_000)), MelJitter((9, 0), (14_001, 16_000)), MelJitter((0, 9), (9, 16_000)),
        MelJitter((0, 9), (16_000, 14_001)), MelJitter((0, 9), (14_001, 16_001)),
    ],
)  # fmt: skip
def test_a_jitter_beyond_the_spectrum_is_refused(jitter: MelJitter) -> None:
    with pytest.raises(ConfigError, match=r"front end efficientat32k: a mel range .* between 0 and 16000 Hz; drop"):
        TorchFrontEnd(EFFICIENTAT, jitter)
