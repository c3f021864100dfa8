"""Texture statistics, against SciPy and NumPy."""

import itertools

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from audioclf.models import texture
from audioclf.models.texture import EDGES, HOP, LEAST, N_GROUPS, WINDOW, Texture

BANDS, FRAMES = 40, 300
PARTS = {
    "deviation": (BANDS,),
    "skewness": (BANDS,),
    "kurtosis": (BANDS,),
    "power": (BANDS, len(EDGES) - 1),
    "standing_out": (N_GROUPS, len(EDGES) - 1),
    "correlation": (N_GROUPS * (N_GROUPS - 1) // 2,),
}


def statistics(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Of [B, M, T], by name."""
    found = Texture(BANDS, n_classes=2).statistics(torch.from_numpy(pictures.astype(np.float32))).numpy()
    ends = np.cumsum([np.prod(shape) for shape in PARTS.values()])
    assert found.shape[1] == ends[-1]
    split = np.split(found, ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(PARTS.items(), split, strict=True)}


def sounds(seed: int = 0) -> np.ndarray:
    """[3, M, T] of bands that lean, that have heavy tails, and that go together in twos."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.gamma(2, size=(BANDS, FRAMES)), rng.laplace(size=(BANDS, FRAMES))])
    together = rng.normal(size=(BANDS // 2, FRAMES)).repeat(2, axis=0) + 0.5 * rng.normal(size=(BANDS, FRAMES))
    return np.concatenate([drawn, together[None]])


def test_moments_are_those_of_scipy() -> None:
    pictures = sounds()
    found = statistics(pictures)
    deviation = pictures.std(axis=2)
    np.testing.assert_allclose(np.exp(found["deviation"]), deviation + LEAST, rtol=1e-4)
    ratio = deviation / (deviation + LEAST)
    np.testing.assert_allclose(found["skewness"], scipy.stats.skew(pictures, axis=2) * ratio**3, atol=1e-3)
    kurtosis = scipy.stats.kurtosis(pictures, axis=2, fisher=False) * ratio**4
    np.testing.assert_allclose(np.exp(found["kurtosis"]) - 0.1, kurtosis, rtol=1e-3)


def test_modulation_is_the_spectrum_of_welch() -> None:
    pictures = sounds()
    found = statistics(pictures)
    varying = pictures - pictures.mean(axis=2, keepdims=True)
    padded = np.pad(varying, ((0, 0), (0, 0), (WINDOW // 2, WINDOW // 2)))
    _, density = scipy.signal.welch(
        padded,
        nperseg=WINDOW,
        noverlap=WINDOW - HOP,
        detrend=False,  # pyright: ignore[reportArgumentType] (as SciPy documents)
        return_onesided=False,
        axis=2,
    )
    bands = [density[:, :, first:end] for first, end in itertools.pairwise(EDGES)]
    means = np.log(np.stack([band.mean(2) for band in bands], axis=2) + 1e-4)
    peaks = np.log(np.stack([band.max(2) for band in bands], axis=2) + 1e-4)
    np.testing.assert_allclose(found["power"], means, atol=1e-3)
    groups = np.array_split(np.arange(BANDS), N_GROUPS)
    standing_out = np.stack([(peaks - means)[:, group].mean(1) for group in groups], axis=1)
    np.testing.assert_allclose(found["standing_out"], standing_out, atol=1e-3)


def test_correlations_are_those_of_numpy() -> None:
    pictures = 100 * sounds()  # so that LEAST does not count
    groups = np.array_split(np.arange(BANDS), N_GROUPS)
    for picture, found in zip(pictures, statistics(pictures)["correlation"], strict=True):
        of_groups = np.corrcoef([picture[group].mean(0) for group in groups])
        np.testing.assert_allclose(found, of_groups[np.triu_indices(N_GROUPS, 1)], atol=2e-3)


@pytest.mark.parametrize("bin_", [4, 12, 45])
def test_a_rhythm_stands_out_in_its_band_of_modulation(bin_: int) -> None:
    frames = np.arange(512)
    picture = np.random.default_rng(0).normal(size=(BANDS, 512))
    picture[10] += 3 * np.sin(2 * np.pi * bin_ / WINDOW * frames)
    power = statistics(picture[None])["power"][0]
    expected = int(np.searchsorted(EDGES, bin_, side="right")) - 1
    assert (power - np.delete(power, 10, axis=0).mean(0)).argmax() == 10 * power.shape[1] + expected


def test_the_level_of_a_recording_does_not_matter_but_how_far_it_varies_does() -> None:
    quiet = statistics(sounds())
    for name, louder in statistics(sounds() + 3.0).items():
        np.testing.assert_allclose(louder, quiet[name], atol=2e-3)
    assert np.abs(statistics(2 * sounds())["deviation"] - quiet["deviation"]).min() > 0.5


def test_digital_silence_around_a_sound_is_left_out() -> None:
    pictures = sounds()
    lowest = pictures.min(axis=2, keepdims=True) - 1
    filled = np.concatenate([np.repeat(lowest, 50, axis=2), pictures, np.repeat(lowest, 200, axis=2)], axis=2)
    alone, around = statistics(pictures), statistics(filled)
    for name in ("deviation", "skewness", "kurtosis", "correlation"):
        np.testing.assert_allclose(around[name], alone[name], atol=1e-3)
    assert np.abs(around["power"] - alone["power"]).mean() < 0.1  # windows at the ends see more of it


@pytest.mark.parametrize("frames", [1, 8, 127, 128, 1000])
def test_pictures_of_any_length_and_silence_have_finite_statistics(frames: int) -> None:
    network = Texture(16, n_classes=3)
    for pictures in (torch.zeros(2, 16, frames), torch.randn(2, 16, frames), 1e3 * torch.randn(2, 16, frames)):
        found = network(pictures)
        assert found.shape == (2, network.n_features)
        assert found.isfinite().all()
        assert found.abs().max() <= texture.MOST


@pytest.mark.parametrize("frames", [60, 500])
def test_a_call_in_a_long_file_has_statistics_of_no_level(frames: int) -> None:
    """Of four frames, however many of silence there are."""
    call = np.random.default_rng(0).normal(size=(2, BANDS, 4))
    call[1] = call[0] + 3
    filled = np.full((2, BANDS, frames), -20.0)
    filled[:, :, 10:14] = call
    deviation = statistics(filled)["deviation"]
    np.testing.assert_allclose(deviation[1], deviation[0], atol=1e-3)
    np.testing.assert_allclose(np.exp(deviation[0]), call[0].std(axis=1) + LEAST, rtol=1e-3)


def test_gaps_within_a_sound_are_part_of_it() -> None:
    """As those between the ticks of a clock."""
    pictures = sounds()
    lowest = np.repeat(pictures.min(axis=2, keepdims=True) - 1, 50, axis=2)
    with_gap = np.concatenate([pictures[:, :, :150], lowest, pictures[:, :, 150:]], axis=2)
    np.testing.assert_allclose(np.exp(statistics(with_gap)["deviation"]), with_gap.std(axis=2) + LEAST, rtol=1e-4)
