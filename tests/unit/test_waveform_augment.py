"""Changes to the waveforms of a training step, each against what it is by definition."""

import math
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from scipy.stats import beta, binomtest, kstest

from audioclf import waveform_augment
from audioclf.waveform_augment import WaveformAugment

RATE = 44_100
EFFICIENTAT: dict[str, Any] = {"roll_samples": 4000, "gain_db": 12.0, "mixup_alpha": 2.0, "mixup_probability": 0.5}


def noise(n: int, n_samples: int = 50) -> torch.Tensor:
    """With a mean that is not 0."""
    return torch.randn(n, n_samples, generator=torch.Generator().manual_seed(1)) + 0.5


def tone(hz: float, amplitude: float = 0.5, seconds: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (amplitude * torch.sin(2 * torch.pi * hz * time)).float()


def changed(waveforms: torch.Tensor, seed: int = 0, **steps: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """With a class for each row, so that targets show the mixture."""
    torch.manual_seed(seed)
    before, targets = waveforms.clone(), torch.eye(len(waveforms))
    got = WaveformAugment(RATE, **steps)(waveforms, targets)
    assert torch.equal(waveforms, before)
    assert torch.equal(targets, torch.eye(len(waveforms)))
    assert got[0].shape == (len(waveforms), steps.get("crop_samples") or waveforms.shape[1])
    assert got[0].dtype == got[1].dtype == torch.float32
    return got


# --- all steps


@pytest.mark.parametrize("steps", [{}, {"mixup_probability": 0.5}, {"mixup_alpha": 2.0, "mixup_probability": 0.0}])
def test_with_every_step_off_nothing_changes_and_nothing_is_drawn(steps: dict[str, Any]) -> None:
    waveforms, targets = noise(4), torch.eye(4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    got = WaveformAugment(RATE, **steps)(waveforms, targets)
    assert got[0] is waveforms
    assert got[1] is targets
    assert torch.equal(torch.get_rng_state(), state)


STEPS = [{"crop_samples": 20}, {"speed": 1.5}, {"roll_samples": 9}, {"gain_db": 6.0}, {"mixup_alpha": 0.4}, EFFICIENTAT]


@pytest.mark.parametrize("steps", [*STEPS, EFFICIENTAT | {"mixing": "between-class"}])
def test_the_seed_alone_decides(steps: dict[str, Any]) -> None:
    waveforms = noise(8)
    first, again, other = (changed(waveforms, seed, **steps) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("mixing", ["mixup", "between-class"])
@pytest.mark.parametrize("n", [0, 1])
def test_a_worker_may_have_one_row_of_a_step_or_none(n: int, mixing: str) -> None:
    steps: dict[str, Any] = EFFICIENTAT | {"mixing": mixing, "crop_samples": 20, "speed": 1.25}
    got = changed(noise(n), **steps)
    torch.testing.assert_close(got[1], torch.eye(n))
    assert got[0].isfinite().all()


def test_roll_and_gain_come_before_mixing() -> None:
    got, targets = changed(noise(16), roll_samples=20, gain_db=6.0, mixup_alpha=1.0)
    torch.manual_seed(0)
    shifts = torch.randint(-20, 21, (16,)).tolist()
    factors = 10 ** (6 * (2 * torch.rand(16) - 1) / 20)
    rows = zip(noise(16), shifts, factors, strict=True)
    moved = torch.stack([row.roll(shift) * factor for row, shift, factor in rows])
    moved -= moved.mean(dim=1, keepdim=True)
    torch.testing.assert_close(got, targets @ moved)  # targets are the weights of the rows


# --- crop and speed


def cropped(waveforms: torch.Tensor, n_samples: int, speed: float, where: float) -> torch.Tensor:
    rows = torch.ones(len(waveforms))
    return waveform_augment.crop(waveforms, n_samples, speed * rows, where * rows)


@pytest.mark.parametrize("start", [0, 7, 30])
def test_a_part_at_its_own_speed_is_the_samples_themselves(start: int) -> None:
    waveforms = noise(3)
    assert torch.equal(cropped(waveforms, 20, 1.0, start / 30), waveforms[:, start : start + 20])


@pytest.mark.parametrize("speed", [0.8, 1.0, 1.4])
def test_values_between_samples_are_on_the_line_between_them(speed: float) -> None:
    waveforms = noise(2, 100)
    span = round(speed * 40)
    start = round(0.3 * (100 - span))
    times = np.linspace(start, start + span - 1, 40)
    expected = np.stack([np.interp(times, np.arange(100), row) for row in waveforms.numpy()])
    np.testing.assert_allclose(cropped(waveforms, 40, speed, 0.3), expected, atol=1e-5)


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.25, 2.0])
def test_a_tone_rises_with_the_speed(speed: float) -> None:
    got = cropped(tone(1000.0)[None], RATE // 8, speed, 0.5)[0]
    spectrum = np.abs(np.fft.rfft(got.numpy() * np.hanning(len(got))))
    assert spectrum.argmax() * RATE / len(got) == pytest.approx(1000 * speed, abs=8)  # a bin


@pytest.mark.parametrize("where", [0.0, 0.4, 1.0])
def test_a_part_is_cut_from_where_there_is_sound(where: float) -> None:
    waveforms = torch.full((1, 3200), 0.9e-3)  # 61 dB below what follows
    waveforms[0, 960:2240] = 1.0
    assert (cropped(waveforms, 800, 1.0, where) == 1).all()


@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("first", [0, 1300, 3194])
def test_a_sound_shorter_than_the_part_is_in_it_whole(first: int, where: float) -> None:
    waveforms = torch.zeros(1, 3200)
    waveforms[0, first : first + 6] = torch.arange(1.0, 7.0)
    got = cropped(waveforms, 1000, 1.0, where)
    assert got.shape == (1, 1000)
    assert got.sum() == 21
    assert got.argmax() == pytest.approx(5 + where * 994, abs=32)


def test_of_silence_any_part_is_silence() -> None:
    assert torch.equal(cropped(torch.zeros(2, 50), 20, 1.3, 0.7), torch.zeros(2, 20))


@pytest.mark.parametrize(("where", "before"), [(0.0, 0), (1.0, 30)])
def test_a_part_longer_than_the_waveform_has_silence_beside_it(where: float, before: int) -> None:
    waveforms = noise(1) + 10
    zeros = torch.zeros(1, 30)
    expected = torch.cat([zeros[:, :before], waveforms, zeros[:, before:]], dim=1)
    assert torch.equal(cropped(waveforms, 80, 1.0, where), expected)


def test_parts_begin_anywhere_and_octaves_are_evenly_spread() -> None:
    ramps = torch.arange(1.0, 10_001.0).repeat(2000, 1) + 100
    got, _ = changed(ramps, crop_samples=1000, speed=1.5)
    speeds = (got[:, -1] - got[:, 0]) / 999
    assert kstest(speeds.log() / math.log(1.5), "uniform", (-1, 2)).pvalue > 1e-3
    starts = (got[:, 0] - 101) / (10_000 - 1000 * speeds)
    assert kstest(starts, "uniform").pvalue > 1e-3


# --- roll


def test_rolls_are_whole_samples_up_to_the_furthest_either_way() -> None:
    waveforms = noise(3000)
    got, _ = changed(waveforms, roll_samples=4)
    found = []
    for before, after in zip(waveforms, got, strict=True):
        (shift,) = (shift for shift in range(-25, 25) if torch.equal(before.roll(shift), after))
        found.append(shift)
    assert set(found) == set(range(-4, 5))
    counts = np.bincount(np.array(found) + 4)
    assert min(binomtest(int(count), 3000, 1 / 9).pvalue for count in counts) > 1e-4


def test_a_roll_is_half_a_waveform_at_most() -> None:
    got, _ = changed(torch.arange(5.0).repeat(200, 1), roll_samples=100_000)
    assert set(got[:, 0].tolist()) == {0, 1, 2, 3, 4}  # 2 either way
    assert torch.equal(
        waveform_augment.roll(torch.arange(3.0)[None], torch.tensor([1]), 1), torch.tensor([[2.0, 0, 1]])
    )


# --- gain


def test_gains_are_evenly_spread_decibels() -> None:
    waveforms = noise(2000)
    got, _ = changed(waveforms, gain_db=12.0)
    factors = got[:, :1] / waveforms[:, :1]
    torch.testing.assert_close(got, waveforms * factors)
    assert kstest(20 * factors[:, 0].log10(), "uniform", (-12, 24)).pvalue > 1e-3


def test_6_db_are_twice_the_amplitude() -> None:
    got = waveform_augment.gain(torch.tensor([[0.5, -1.0], [0.5, -1.0]]), torch.tensor([20 * math.log10(2), 0.0]))
    torch.testing.assert_close(got, torch.tensor([[1.0, -2.0], [0.5, -1.0]]))


# --- mixup


def partners_and_weights(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    off_diagonal = targets - torch.diag(targets.diag())
    return off_diagonal.argmax(1), targets.diag()


@pytest.mark.parametrize("alpha", [0.3, 2.0])
def test_mixup_is_its_formula_with_a_weight_of_its_own_for_each_row(alpha: float) -> None:
    n, waveforms = 2000, noise(2000, 20)
    got, targets = changed(waveforms, mixup_alpha=alpha)
    partners, weights = partners_and_weights(targets)
    mixed = weights < 1
    assert mixed.sum() > 0.9 * n
    assert (torch.bincount(partners[mixed], minlength=n) <= 1).all()  # of a permutation
    torch.testing.assert_close(targets.sum(1), torch.ones(n))
    centred = waveforms - waveforms.mean(1, keepdim=True)
    by_hand = weights[:, None] * centred + (1 - weights)[:, None] * centred[partners]
    torch.testing.assert_close(got[mixed], by_hand[mixed])
    # Of Beta(a, a), the greater of a number and what is left of 1.
    assert weights.min() >= 0.5
    drawn = weights[mixed & (weights < 0.999)].numpy()  # very near 1, float32 rounds
    scale = beta.cdf(0.999, alpha, alpha) - 0.5
    assert kstest(drawn, lambda x: (beta.cdf(x, alpha, alpha) - 0.5) / scale).pvalue > 1e-3


def test_with_a_probability_the_other_rows_stay_as_they_are() -> None:
    n, waveforms = 3000, noise(3000, 20)
    got, targets = changed(waveforms, mixup_alpha=2.0, mixup_probability=0.3)
    alone = targets.diag() == 1
    assert torch.equal(got[alone], waveforms[alone])
    assert torch.equal(targets[alone], torch.eye(n)[alone])
    assert (got[~alone].mean(1).abs() < 1e-6).all()
    assert binomtest(int((~alone).sum()), n, 0.3).pvalue > 1e-3


def test_mixing_by_hand() -> None:
    waveforms = torch.tensor([[1.0, 3.0], [6.0, 2.0]])
    mixed = waveform_augment.mixup(waveforms, torch.tensor([1, 1]), torch.tensor([0.75, 0.5]))
    torch.testing.assert_close(mixed, torch.tensor([[-0.25, 0.25], [2.0, -2.0]]))


# --- between-class learning


def librosas_weights_db(rate: int, n_fft: int) -> np.ndarray:
    hz = np.maximum(np.fft.rfftfreq(n_fft, 1 / rate), 1e-9)  # of 0 Hz it would take the logarithm
    return librosa.A_weighting(hz)


def test_a_weighting_is_that_of_librosa() -> None:
    weights_db = 10 * np.log10(waveform_augment.a_weights(RATE, 4096).double().numpy())
    np.testing.assert_allclose(weights_db, librosas_weights_db(RATE, 4096), atol=1e-3)


def test_a_weighting_is_that_of_the_standards_table() -> None:
    """IEC 61672-1, table 3, of every octave from 31.5 Hz to 8 kHz (which are powers of 10^0.3): rounded to 0.1 dB."""
    weights_db = 10 * waveform_augment.a_weights(RATE, 882_000).log10()  # bins of a twentieth of a Hz
    table = [-39.4, -26.2, -16.1, -8.6, -3.2, 0, 1.2, 1.0, -1.1]
    found = [weights_db[round(20 * 1000 * 10 ** (0.3 * octave))].item() for octave in range(-5, 4)]
    np.testing.assert_allclose(found, table, atol=0.06)


def level_by_hand(samples: np.ndarray, rate: int, n_fft: int) -> float:
    """The loudest window's A-weighted power in dB, in double precision and with librosa's weights."""
    weights = 10 ** (librosas_weights_db(rate, n_fft) / 10)
    window = np.hanning(n_fft + 1)[:-1]
    starts = range(0, len(samples) - n_fft + 1, n_fft // 2)
    powers = [np.sum(weights * np.abs(np.fft.rfft(window * samples[at : at + n_fft])) ** 2) for at in starts]
    return 10 * np.log10(max([*powers, 1e-8]))


@pytest.mark.parametrize(("rate", "n_fft"), [(44_100, 4096), (32_000, 4096), (16_000, 2048)])
def test_levels_are_those_of_the_loudest_window(rate: int, n_fft: int) -> None:
    waveforms = noise(3, 20_000) * torch.tensor([[0.1], [1.0], [0.0]])
    waveforms[0, 12_000:12_500] *= 30
    levels = waveform_augment.level_db(waveforms, rate)
    by_hand = [level_by_hand(row, rate, n_fft) for row in waveforms.double().numpy()]
    np.testing.assert_allclose(levels, by_hand, atol=1e-3)
    assert levels[0] > levels[1]
    assert levels[2] == -80


def test_a_waveform_shorter_than_a_window_has_a_level() -> None:
    full, short = tone(1000), tone(1000)[:3000]
    assert -6 < waveform_augment.level_db(short[None], RATE) - waveform_augment.level_db(full[None], RATE) < 0


def test_between_class_mixing_is_its_formula() -> None:
    waveforms, partners = noise(4, 10_000) * torch.tensor([[0.1], [1.0], [0.5], [2.0]]), torch.tensor([1, 2, 3, 0])
    weights = torch.tensor([0.5, 0.9, 0.2, 1.0])
    got = waveform_augment.between_class(waveforms, partners, weights, RATE)
    rows = waveforms.double().numpy()
    levels = [level_by_hand(row, RATE, 4096) for row in rows]
    for i, (j, r) in enumerate(zip(partners.tolist(), weights.double().tolist(), strict=True)):
        p = 1 / (1 + 10 ** ((levels[i] - levels[j]) / 20) * (1 - r) / r)
        by_hand = (p * rows[i] + (1 - p) * rows[j]) / np.sqrt(p**2 + (1 - p) ** 2)
        np.testing.assert_allclose(got[i], by_hand, atol=1e-5)
    torch.testing.assert_close(got[3], waveforms[3])


def test_half_and_half_are_heard_alike_however_loud_they_were() -> None:
    """Two tones far apart in the spectrum, so that each can be found in the mixture."""
    rows = torch.stack([tone(1000, 0.9), tone(4000, 0.01)])
    mixed = waveform_augment.between_class(rows, torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), RATE)[0]
    bins = torch.fft.rfft(mixed).abs() * 2 / len(mixed)
    heard = bins[[500, 2000]] * waveform_augment.a_weights(RATE, len(mixed))[[500, 2000]].sqrt()
    torch.testing.assert_close(heard[0], heard[1], rtol=0.01, atol=0)


@pytest.mark.parametrize("probability", [0.4, 1.0])
def test_a_batch_is_mixed_between_classes(probability: float) -> None:
    waveforms = noise(64, 5000) * torch.linspace(0.1, 2, 64)[:, None]
    got, targets = changed(waveforms, mixup_alpha=1.0, mixup_probability=probability, mixing="between-class")
    partners, weights = partners_and_weights(targets)
    by_hand = waveform_augment.between_class(waveforms, partners, weights, RATE)
    torch.testing.assert_close(got, by_hand)
    assert (weights < 1).float().mean() == pytest.approx(probability, abs=0.2)
