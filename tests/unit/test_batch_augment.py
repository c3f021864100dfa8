"""Changes to the patches of a training step, each against what it is by definition."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, chisquare, kstest

from audioclf import batch_augment, config, training
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.batch_augment import BatchAugment
from audioclf.config import Training
from audioclf.errors import ConfigError
from audioclf.labels import Vocabulary
from audioclf.shards import Examples
from audioclf.training_rows import MemoryRows, Share

SPEC = get_front_end("logmel44k")
TRIO = Vocabulary(("a", "b", "c"), multi_label=False)
MEAN = torch.arange(1000.0, 1012.0)[:, None]
ALL_ON: dict[str, Any] = {"mixup_alpha": 0.4, "mask_bands": 9, "mask_frames": 20, "roll_s": 0.5, "gain_db": 6.0}


def noise(n: int, n_bands: int = 12, n_frames: int = 30) -> torch.Tensor:
    return torch.randn(n, n_bands, n_frames, generator=torch.Generator().manual_seed(1))


def changed(augment: BatchAugment, patches: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """With a class for each row, so that targets show the mixture."""
    torch.manual_seed(seed)
    before, targets = patches.clone(), torch.eye(len(patches))
    mean = MEAN if patches.shape[1] == len(MEAN) else torch.zeros(patches.shape[1], 1)
    got = augment(patches, targets, mean)
    assert torch.equal(patches, before)
    assert torch.equal(targets, torch.eye(len(patches)))
    assert got[0].shape == patches.shape
    assert got[0].dtype == got[1].dtype == torch.float32
    return got


# --- all steps


def test_with_every_step_off_nothing_changes_and_nothing_is_drawn() -> None:
    assert BatchAugment.of(Training(), SPEC) == BatchAugment()
    patches, targets = noise(4), torch.eye(4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    got = BatchAugment()(patches, targets, MEAN)
    assert got[0] is patches
    assert got[1] is targets
    assert torch.equal(torch.get_rng_state(), state)


STEPS = [
    {"roll_frames": 9}, {"gain": 6.0}, {"mixup_alpha": 0.4}, {"mask_bands": 5}, {"mask_frames": 5},
    {"roll_frames": 9, "gain": 6.0, "mixup_alpha": 0.4, "mask_bands": 5, "mask_frames": 5},
]  # fmt: skip


@pytest.mark.parametrize("steps", STEPS)
def test_the_seed_alone_decides(steps: dict[str, Any]) -> None:
    patches = noise(8)
    first, again, other = (changed(BatchAugment(**steps), patches, seed) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("n", [0, 1])
def test_a_worker_may_have_one_row_of_a_step_or_none(n: int) -> None:
    got = changed(BatchAugment(**STEPS[-1]), noise(n))
    assert torch.equal(got[1], torch.eye(n))


def test_the_steps_come_in_their_order() -> None:
    """Roll and gain before mixing, each row its own; then masks, over all of the mixture."""
    augment = BatchAugment(roll_frames=15, gain=6.0, mixup_alpha=1.0, mask_bands=6, mask_frames=6)
    got, targets = changed(augment, noise(16))
    torch.manual_seed(0)
    shifts = torch.randint(-15, 16, (16,)).tolist()
    amounts = 6 * (2 * torch.rand(16) - 1)
    rows = zip(noise(16), shifts, amounts, strict=True)
    moved = torch.stack([row.roll(shift, 1) + amount for row, shift, amount in rows])
    mixed = (targets @ moved.flatten(1)).view_as(moved)  # targets are the weights of the rows
    hidden = got == MEAN
    assert hidden.any()
    torch.testing.assert_close(got[~hidden], mixed[~hidden])


# --- mixup


@pytest.mark.parametrize("alpha", [0.05, 0.4, 2.0])
def test_mixup_is_its_formula_with_a_weight_of_its_own_for_each_row(alpha: float) -> None:
    n, patches = 2000, noise(2000, 2, 3)
    got, targets = changed(BatchAugment(mixup_alpha=alpha), patches)
    off_diagonal = targets - torch.diag(targets.diag())
    partners = off_diagonal.argmax(1)
    mixed = (off_diagonal != 0).any(1)
    assert (torch.bincount(partners[mixed], minlength=n) <= 1).all()  # of a permutation
    weights = torch.where(mixed, targets.diag(), 1.0)
    for i in range(n):
        expected = torch.zeros(n)
        expected[i] += weights[i]
        expected[partners[i]] += 1 - weights[i]
        torch.testing.assert_close(targets[i], expected)
        by_hand = weights[i] * patches[i] + (1 - weights[i]) * patches[partners[i]]
        torch.testing.assert_close(got[i], by_hand)
    # In bins, since float32 makes 1 of what is very near it.
    bins = np.array([0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1])
    expected = n * np.diff(beta.cdf(bins, alpha, alpha))
    assert chisquare(np.histogram(targets.diag(), bins)[0], expected).pvalue > 1e-3


def test_mixing_by_hand() -> None:
    patches = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]], [[5.0, -1.0]]])
    mixed = batch_augment.mix(patches, torch.tensor([1, 2, 2]), torch.tensor([0.75, 0.5, 0.1]))
    torch.testing.assert_close(mixed, torch.tensor([[[1.5, 3.0]], [[4.0, 2.5]], [[5.0, -1.0]]]))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_of_mixed_targets_is_the_mixture_of_both_losses(multi_label: bool) -> None:
    """Both losses are linear in the targets: Zhang et al., and how others compute it."""
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3))).float()
    ours, theirs, weights = torch.eye(3)[[0, 2, 1, 1]], torch.eye(3)[[1, 2, 0, 2]], torch.tensor([0.9, 0.3, 0.5, 0.0])
    mixed = batch_augment.mix(torch.cat([ours, theirs]), torch.arange(8).roll(4), weights.repeat(2))[:4]
    expected = 0.0
    for i in range(4):
        for targets, weight in (ours, weights[i]), (theirs, 1 - weights[i]):
            expected += float(weight * training._loss(logits[i : i + 1], targets[i : i + 1], multi_label, 0.0))
    assert float(training._loss(logits, mixed, multi_label, 0.0)) == pytest.approx(expected, rel=1e-5)


# --- masks


def hidden_ranges(got: torch.Tensor, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, M] and [B, T]: which bands and frames are hidden; all else must be as it was, bit by bit."""
    hidden = got != patches
    bands, frames = hidden.all(2), hidden.all(1)
    assert torch.equal(hidden, bands[:, :, None] | frames[:, None, :])
    assert torch.equal(got, torch.where(hidden, MEAN, patches))
    return bands, frames


@pytest.mark.parametrize("axis", [0, 1], ids=["bands", "frames"])
def test_a_mask_is_one_range_of_any_width_up_to_the_greatest(axis: int) -> None:
    patches = noise(3000)
    widths = {"mask_bands": 5} if axis == 0 else {"mask_frames": 5}
    ranges = hidden_ranges(changed(BatchAugment(**widths, n_masks=1), patches)[0], patches)
    assert not ranges[1 - axis].any()
    edges = np.diff(ranges[axis].numpy().astype(int), axis=1, prepend=0, append=0)
    assert ((edges == 1).sum(1) <= 1).all()  # in one piece
    width = ranges[axis].sum(1).numpy()
    assert chisquare(np.bincount(width)).pvalue > 1e-3
    assert len(np.bincount(width)) == 6  # 0 to 5
    # Park et al.: it begins in [0, ν - f), so that the last of ν bands is never hidden.
    assert {*np.argmax(edges[width == 5], axis=1).tolist()} == set(range(ranges[axis].shape[1] - 5))


@pytest.mark.parametrize("n_masks", [1, 2, 3])
def test_so_many_masks_hide_no_more_than_their_widths(n_masks: int) -> None:
    patches = noise(2000)
    augment = BatchAugment(mask_bands=2, mask_frames=4, n_masks=n_masks)
    bands, frames = hidden_ranges(changed(augment, patches)[0], patches)
    assert bands.sum(1).max() == 2 * n_masks
    assert frames.sum(1).max() == 4 * n_masks


def test_masks_wider_than_a_patch_end_at_it() -> None:
    patches = noise(500)
    got, _ = changed(BatchAugment(mask_bands=1000, mask_frames=1000, n_masks=1), patches)
    bands, _ = hidden_ranges(got, patches)
    assert set(bands.sum(1).tolist()) == set(range(13))  # of 12 bands


# --- roll


@pytest.mark.parametrize(("furthest", "expected"), [(3, range(-3, 4)), (15, range(-15, 16)), (1000, range(-15, 16))])
def test_a_roll_moves_all_bands_alike_and_loses_nothing(furthest: int, expected: range) -> None:
    patches = noise(1500)
    got, targets = changed(BatchAugment(roll_frames=furthest), patches)
    shifts = []
    for before, after in zip(patches.numpy(), got.numpy(), strict=True):
        # of 30 frames, -15 and 15 are the same roll
        shifts.append(next(s for s in expected if np.array_equal(np.roll(before, s, axis=1), after)))
    assert set(shifts) | {15} == set(expected) | {15}
    assert torch.equal(targets, torch.eye(1500))


def test_a_roll_is_in_seconds_and_a_frame_at_least() -> None:
    assert BatchAugment.of(Training(roll_s=0.5), SPEC).roll_frames == 21  # 0.5 · 44100 / 1024 = 21.5
    assert BatchAugment.of(Training(roll_s=0.5), get_front_end("panns32k")).roll_frames == 50
    with pytest.raises(ConfigError, match=r"--roll-s 0\.02: a frame of logmel44k is 0\.0232 s"):
        BatchAugment.of(Training(roll_s=0.02), SPEC)


# --- gain


@pytest.mark.parametrize("name", ["logmel44k", "panns32k", "efficientat32k", "yamnet16k"])
@pytest.mark.parametrize("db", [-12.0, 6.0])
def test_gain_is_what_a_louder_waveform_gives(name: str, db: float) -> None:
    spec = get_front_end(name)
    samples = np.random.default_rng(0).normal(0, 0.3, spec.sample_rate).astype(np.float32)
    factor = 10 ** (db / 20)
    before, louder = log_mel(samples, spec), log_mel((samples * factor).astype(np.float32), spec)
    amount = torch.tensor([db * batch_augment.per_db(spec)], dtype=torch.float32)
    got = batch_augment.gain(torch.from_numpy(before)[None], amount)[0].numpy()
    # Where x becomes k·x, ln(x + offset) rises by ln(k) + ln(x + offset/k) - ln(x + offset): the difference to ln(k) is
    # at most offset·|1/k - 1| over the smaller of the two. Without an offset only float32 rounds.
    k = factor**spec.power
    x = np.exp(before * spec.std + spec.mean) - spec.log_offset if spec.log_offset else np.ones(1)
    inexact = spec.log_offset * abs(1 / k - 1) / (x + spec.log_offset * min(1, 1 / k)) / spec.std
    assert np.quantile(inexact, 0.9) < 0.01 * abs(float(amount))  # the noise is loud
    assert (abs(got - louder) <= inexact + 1e-3).all()


def test_gains_are_evenly_drawn_each_row_its_own() -> None:
    augment = BatchAugment.of(Training(gain_db=6.0), SPEC)
    patches = noise(2000, 2, 3)
    rise = (changed(augment, patches)[0] - patches).numpy()
    np.testing.assert_allclose(rise, np.broadcast_to(rise[:, :1, :1], rise.shape), atol=1e-5)
    assert kstest(rise[:, 0, 0], "uniform", args=(-6, 12)).pvalue > 1e-3


def test_cosine_coefficients_have_no_gain() -> None:
    mfcc = get_front_end("mfcc44k")
    with pytest.raises(ConfigError, match="--gain-db: mfcc44k"):
        BatchAugment.of(Training(gain_db=1.0), mfcc)
    assert BatchAugment.of(Training(mixup_alpha=0.2), mfcc).mixup_alpha == 0.2


# --- in training


def examples(n: int = 8) -> Examples:
    pictures = np.random.default_rng(0).normal(-40, 10, (n, 128, 130)).astype(np.float16)
    columns = {
        "labels": [["abc"[i // 2 % 3]] for i in range(n)],
        "clip_id": [str(i // 2) for i in range(n)],
        "segment_index": [0] * n,
    }
    return Examples(SPEC, pictures, np.full(n, 130), columns)


def test_a_resumed_training_is_the_same_training() -> None:
    """Copies, changes to patches and dropout included."""
    data, how = examples(), Training(epochs=2, batch_size=2, **ALL_ON)
    network = training.build_network(how, MemoryRows(data), TRIO, 0, SPEC)
    trainer = training.Trainer(MemoryRows(data), TRIO, how, 0, network, SPEC, np.ones(len(data)))
    first = trainer.epoch(0)
    again = copy.deepcopy(network)
    resumed = training.Trainer(MemoryRows(data), TRIO, how, 0, again, SPEC, np.ones(len(data)))
    resumed.restore(copy.deepcopy(trainer.state()))
    undisturbed = trainer.epoch(1)
    torch.rand(3)  # whatever was drawn before
    assert resumed.epoch(1) == undisturbed != first
    for name, weight in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def seen_by(share: Share, how: Training) -> torch.Tensor:
    """What reaches the network in one epoch."""
    data, seen = examples(), []
    network = training.build_network(how, MemoryRows(data), TRIO, 0, SPEC)
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training.Trainer(MemoryRows(data), TRIO, how, 0, network, SPEC, np.ones(len(data)), share).epoch(0)
    return torch.cat(seen)


def test_workers_draw_their_own_changes() -> None:
    how = Training(epochs=1, batch_size=4, gain_db=6.0)
    plain = Training(epochs=1, batch_size=4)
    rises = []
    for rank in range(2):
        share = Share(rank, 2)
        rise = seen_by(share, how) - seen_by(share, plain)
        rises.append(rise[:, 0, 0])
        assert rise.abs().max() <= 6.0001
    assert len(rises[0]) == len(rises[1]) == 2
    assert not torch.isclose(rises[0], rises[1]).any()


def test_the_loss_is_of_the_mixed_labels_and_hits_are_of_those_the_clips_have() -> None:
    """By a network that always says a, whose loss is that of its three logits: log Σ exp - 5 · target of a."""
    data, how = examples(), Training(epochs=1, batch_size=4, dropout=0.0, mixup_alpha=1.0)
    network = training.build_network(how, MemoryRows(data), TRIO, 0, SPEC)
    with torch.no_grad():
        network.get_parameter("dense2.weight").zero_()
        network.get_parameter("dense2.bias").copy_(torch.tensor([5.0, 0.0, 0.0]))
    loss, hits = training.Trainer(MemoryRows(data), TRIO, how, 0, network, SPEC, np.ones(len(data))).epoch(
        0
    )  # of one step
    assert hits == 2  # the clips are of a, b, c, a
    is_a = np.array([1.0, 0.0, 0.0, 1.0])[np.random.default_rng([0, 0]).permutation(4)]
    training.seed_everything(0, 0, 0)
    one = torch.tensor(1.0, dtype=torch.float64)
    weights = torch.distributions.Beta(one, one).sample((4,)).numpy()
    of_a = (weights * is_a + (1 - weights) * is_a[torch.randperm(4).numpy()]).sum()
    assert abs(of_a - 2) > 0.1
    assert loss == pytest.approx(4 * np.log(np.exp(5) + 2) - 5 * of_a, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"mixup_alpha": -0.1}, "--mixup-alpha"),
        ({"mixup_alpha": float("inf")}, "--mixup-alpha"),
        ({"mask_bands": -1}, "--mask-bands"),
        ({"mask_frames": -1}, "--mask-frames"),
        ({"n_masks": 0}, "--n-masks"),
        ({"roll_s": -1.0}, "--roll-s"),
        ({"roll_s": float("nan")}, "--roll-s"),
        ({"gain_db": -3.0}, "--gain-db"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config.TrainConfig(shards=("s",), output="out", **flags)
