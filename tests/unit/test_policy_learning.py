"""Learning a policy: the design's balance, and estimates against known effects, hand counts and published figures."""

import itertools

import numpy as np
import pytest

from audioclf import policy_learning
from audioclf.errors import ConfigError, TrainingError
from audioclf.policy_learning import Design

SETS = ["ts", "ps1", "ps2", "drc", "bg", "stretch-pitch"]


def designs(n_classes: int, repetitions: int = 2, sets: list[str] = SETS) -> list[Design]:
    classes = [f"class{c}" for c in range(n_classes)]
    return [policy_learning.design(sets, classes, repetition) for repetition in range(repetitions)]


def is_on(laid_out: list[Design]) -> np.ndarray:
    """[repetition, run, class, set], from what the policies say."""
    return np.array([[_sets_on(one, run) for run in range(len(one.policies))] for one in laid_out])


def _sets_on(one: Design, run: int) -> list[list[bool]]:
    return [[name in one.policies[run].classes[label] for name in one.transform_sets] for label in one.classes]


def simulate(
    rng: np.random.Generator,
    laid_out: list[Design],
    effects: np.ndarray,
    sources: int = 10,
    of_source: int = 3,
    of_runs: float = 0.0,
    noise: float = 0.2,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Losses of clips with known effects [C, K]: losses, targets and source ids.

    Clips have a base loss; sources respond differently to each set; clips and whole sources are noisy in each training
    (`noise`), and so are all clips of a class and validation fold together (`of_runs`).
    """
    n_classes, n_sets = effects.shape
    label = np.repeat(np.arange(n_classes), sources * of_source)
    source = np.arange(len(label)) // of_source
    fold = source % 4
    on = is_on(laid_out)
    shape = on.shape[:2]
    response = effects[label] + 0.5 * noise * rng.standard_normal((source.max() + 1, n_sets))[source]
    losses = rng.gamma(1, 1, len(label)) + np.einsum("rtnk,nk->rtn", on[:, :, label], response)
    losses += noise * rng.standard_normal((*shape, len(label)))
    losses += noise * rng.standard_normal((*shape, source.max() + 1))[:, :, source]
    losses += of_runs * rng.standard_normal((*shape, 4, n_classes))[:, :, fold, label]
    return losses, np.eye(n_classes)[label], [f"source{s}" for s in source]


@pytest.mark.parametrize(("n_sets", "n_runs"), [(1, 4), (2, 4), (3, 8), (6, 8), (7, 16), (14, 16), (15, 32)])
def test_every_class_has_each_set_on_and_off_equally_often(n_sets: int, n_runs: int) -> None:
    [one] = designs(11, 1, [f"set{k}" for k in range(n_sets)])
    assert len(one.policies) == n_runs
    assert one.signs.shape == (n_runs, 11, n_runs - 1)
    assert n_runs - 1 - n_sets >= 1  # a dummy
    for c in range(11):
        columns = one.signs[:, c].astype(int)
        np.testing.assert_array_equal(columns.sum(0), 0)
        np.testing.assert_array_equal(columns.T @ columns, n_runs * np.eye(n_runs - 1))
        assert len({tuple(row) for row in columns}) == n_runs  # each row of the design once


def test_classes_take_the_rows_in_other_orders() -> None:
    [one] = designs(50, 1)
    orders = {one.signs[:, c].tobytes() for c in range(50)}
    assert len(orders) > 45  # 8! orders: two of 50 classes may share one by chance
    for block in range(0, 48, 8):  # within each run, each row once in every 8 classes
        for run in one.signs[:, block : block + 8]:
            assert len({row.tobytes() for row in run}) == 8


def test_odd_repetitions_mirror_the_one_before() -> None:
    first, mirrored, another, _ = designs(10, 4)
    np.testing.assert_array_equal(mirrored.signs, -first.signs)
    assert (another.signs != first.signs).any()
    assert (designs(10, 1)[0].signs == first.signs).all()


def test_policies_are_the_signs_and_a_set_weighs_the_same_whatever_the_others() -> None:
    for one in designs(10):
        for policy, signs in zip(one.policies, one.signs, strict=True):
            for label, row in zip(one.classes, signs, strict=True):
                sets = policy.classes[label]
                assert set(sets) == {name for name, sign in zip(SETS, row, strict=False) if sign == 1}
                assert all(weight == pytest.approx(4 / 3) for weight in sets.values())
    totals = [sum(sets.values()) for one in designs(10) for policy in one.policies for sets in policy.classes.values()]
    assert np.mean(totals) == pytest.approx(4.0)
    assert any(not policy.classes["class3"] for policy in designs(10)[1].policies)  # not augmented, once


@pytest.mark.parametrize(("sets", "classes"), [([], ["a"]), (["ts"], []), (["ts", "ts"], ["a"]), (["ts"], ["a", "a"])])
def test_no_or_repeated_names_are_refused(sets: list[str], classes: list[str]) -> None:
    with pytest.raises(ConfigError, match="each once"):
        policy_learning.design(sets, classes, 0)
    with pytest.raises(ConfigError, match="stands for all others"):
        policy_learning.design(["ts"], ["a", "*"], 0)


def test_effects_without_noise_are_found_exactly() -> None:
    """Even where two sets together do more than each alone: that cancels between a repetition and its mirror image."""
    rng = np.random.default_rng(1)
    laid_out, effects = designs(5), rng.normal(size=(5, 6))
    label = np.repeat(np.arange(5), 4)
    on = is_on(laid_out)[:, :, label]
    losses = rng.gamma(1, 1, 20) + np.einsum("rtnk,nk->rtn", on, effects[label])
    both = [on[..., i] == on[..., k] for i, k in itertools.combinations(range(6), 2)]
    losses += np.einsum("irtn,i->rtn", both, rng.normal(size=len(both)))
    found = policy_learning.changes(losses, laid_out, np.eye(5)[label], [str(n) for n in range(20)])
    np.testing.assert_allclose(found.change, effects, atol=1e-12)
    unmirrored = policy_learning.changes(losses[:1], laid_out[:1], np.eye(5)[label], [str(n) for n in range(20)])
    assert np.abs(unmirrored.change - effects).max() > 0.1


def test_changes_are_counted_by_hand() -> None:
    """Mean loss with the set on less off, clip by clip; a clip of two labels counts for both, each by its trainings."""
    rng = np.random.default_rng(2)
    laid_out = designs(3)
    labels = [{0}, {0}, {0, 1}, {1}, {1, 2}, {0, 1}]
    targets = np.array([[c in of_clip for c in range(3)] for of_clip in labels], float)
    losses = rng.gamma(1, 1, (2, 8, 6))
    found = policy_learning.changes(losses, laid_out, targets, list("aabbcd"))
    assert found.clips.tolist() == [4, 4, 1]
    assert found.sources.tolist() == [3, 3, 1]
    for c, k in itertools.product(range(3), range(6)):
        changes = []
        for n in range(6):
            if c not in labels[n]:
                continue
            with_set, without = [], []
            for repetition, run in itertools.product(range(2), range(8)):
                sets = laid_out[repetition].policies[run].classes[f"class{c}"]
                (with_set if SETS[k] in sets else without).append(losses[repetition, run, n])
            assert len(with_set) == len(without) == 8
            changes.append(np.mean(with_set) - np.mean(without))
        assert found.change[c, k] == pytest.approx(np.mean(changes), abs=1e-12)


def test_standard_error_is_that_of_sources_by_hand() -> None:
    """Clips 0 1 | 2 3 4 | 5 of three sources, changes 1 2 | 4 4 4 | 9: mean 4, sums of residuals -5, 0, 5.

    sqrt(3 / 2 * (25 + 0 + 25)) / 6 = 1.4434, and the t quantile of two degrees of freedom, 4.3027, in place of 1.96.
    """
    laid_out = designs(1, 1, ["ts", "drc"])
    losses = is_on(laid_out)[:, :, 0, :1] * np.array([1.0, 2, 4, 4, 4, 9])  # the change due to ts; none to a dummy
    found = policy_learning.changes(losses, laid_out, np.ones((6, 1)), list("aabbbc"))
    assert found.change[0] == pytest.approx([4, 0])
    assert found.inflation == 1
    assert found.se[0, 0] == pytest.approx(1.4433757 * 4.3026527 / 1.9599640, rel=1e-6)


def test_standard_error_agrees_with_a_bootstrap_over_sources() -> None:
    rng = np.random.default_rng(3)
    laid_out, n_sources = designs(1, 1), 60
    losses, targets, source_ids = simulate(rng, laid_out, np.zeros((1, 6)), n_sources, 4)
    found = policy_learning.changes(losses, laid_out, targets, source_ids)
    on = is_on(laid_out)[0, :, 0, 0]
    change = (losses[0, on].mean(0) - losses[0, ~on].mean(0)).reshape(n_sources, 4)  # sources are of one size
    means = change[rng.integers(0, n_sources, (4000, n_sources))].mean((1, 2))
    # t of 59 degrees adds 2 %, G / (G - 1) 1 %; 4000 draws tell it to 1 %; clips as if they were independent: 40 % less
    assert found.se[0, 0] / found.inflation == pytest.approx(means.std(), rel=0.06)


@pytest.mark.parametrize(("n_classes", "of_runs"), [(10, 0.0), (10, 0.3), (30, 0.3)])
def test_95_percent_intervals_hold_the_truth_in_95_percent_of_cases(n_classes: int, of_runs: float) -> None:
    """With noise of clips, of sources and, seen by the dummies alone, of a class's clips in a training together."""
    rng = np.random.default_rng(4)
    laid_out = designs(n_classes)
    raw, shrunk, errors, inflation = [], [], [], []
    for _ in range(200 if n_classes == 10 else 70):
        effects = rng.normal(-0.03, 0.1, (n_classes, 6))
        losses, targets, source_ids = simulate(rng, laid_out, effects, of_runs=of_runs)
        found = policy_learning.changes(losses, laid_out, targets, source_ids)
        rows = policy_learning.learn(losses, laid_out, targets, source_ids).rows[:-6]
        low, high = (np.array([row[name] for row in rows]).reshape(n_classes, 6) for name in ("low95", "high95"))
        raw.append(np.abs(found.change - effects) < 1.96 * found.se)
        shrunk.append((low < effects) & (effects < high))
        errors.append(found.change - effects)
        inflation.append(found.inflation)
    assert 0.92 < np.mean(raw) < 0.98
    # Lower: a class whose standard error came out too small by chance (10 sources) is also pulled too little.
    assert 0.89 < np.mean(shrunk) < 0.98
    of_all = np.mean(errors, axis=(1, 2))
    assert abs(of_all.mean()) < 4 * of_all.std() / np.sqrt(len(of_all))  # unbiased
    assert (np.mean(inflation) > 1.3) == (of_runs > 0)


def test_shrinkage_gives_the_published_figures_of_the_eight_schools() -> None:
    """Rubin (1981); Gelman et al., Bayesian Data Analysis, section 5.5, with a flat prior on tau.

    The expected figures are posterior means and standard deviations of 980,000 draws of a Markov chain (OpenBUGS), to
    which a chain in Stan agrees within 0.3, as far as either has converged.
    """
    shrunk = policy_learning.shrink(
        np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    )
    np.testing.assert_allclose(shrunk.mean, [11.6, 8.0, 6.4, 7.7, 5.5, 6.2, 10.7, 8.7], atol=0.4)
    np.testing.assert_allclose(shrunk.sd, [8.4, 6.4, 7.8, 6.6, 6.5, 6.9, 6.9, 7.9], atol=0.25)
    assert (shrunk.overall, shrunk.overall_sd, shrunk.tau) == pytest.approx((8.1, 5.3, 6.6), abs=0.3)


def test_shrinkage_equals_the_joint_posterior_added_up_on_a_grid() -> None:
    """Over mu, tau and one class's effect, by the two normal densities and nothing else."""
    b, se = np.array([-0.3, 0.1, 0.2, -0.1, 0.05]), np.array([0.1, 0.05, 0.2, 0.1, 0.15])

    def normal(x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
        return np.exp(-(((x - mean) / sd) ** 2) / 2) / sd

    # the priors are flat: tau to 5 times the scale of the changes; mu wide enough to lose nothing
    limit = 5 * np.sqrt(np.var(b) + np.median(se**2))
    tau = (np.arange(300) + 0.5)[:, None, None] * limit / 300
    mu, effect = np.linspace(-1.5, 1.5, 201)[None, :, None], np.linspace(-1, 1, 301)[None, None, :]
    others = np.prod([normal(b[c], mu, np.hypot(se[c], tau)) for c in range(1, 5)], axis=0)
    # a class's effect spreads by tau around mu; summed over a grid, that takes the density's own total on the grid
    prior = normal(effect, mu, tau)
    density = (others * prior / np.maximum(prior.sum(2, keepdims=True), 1e-300) * normal(b[0], effect, se[0])).sum(
        (0, 1)
    )
    density /= density.sum()
    mean = density @ effect[0, 0]
    shrunk = policy_learning.shrink(b, se)
    assert shrunk.mean[0] == pytest.approx(mean, abs=3e-3)
    assert shrunk.sd[0] == pytest.approx(np.sqrt(density @ (effect[0, 0] - mean) ** 2), abs=3e-3)


def test_without_any_effect_half_is_dropped_and_little_is_left() -> None:
    rng = np.random.default_rng(5)
    laid_out = designs(20)
    rows = []
    for _ in range(20):
        losses, targets, source_ids = simulate(rng, laid_out, np.zeros((20, 6)))
        rows += policy_learning.learn(losses, laid_out, targets, source_ids).rows
    dropped = np.mean([row["weight"] == 0 for row in rows])
    assert 0.4 < dropped < 0.6
    raw, shrunk = (np.array([row[name] for row in rows]) for name in ("change", "shrunk"))
    assert np.sqrt((shrunk**2).mean()) < 0.5 * np.sqrt((raw**2).mean())


def test_a_class_keeps_its_own_sign_against_all_others() -> None:
    effects = np.full((10, 6), -0.3)
    effects[4, 2] = 0.8
    laid_out = designs(10)
    losses, targets, source_ids = simulate(np.random.default_rng(6), laid_out, effects)
    learned = policy_learning.learn(losses, laid_out, targets, source_ids)
    assert set(learned.policy.classes["class4"]) == {*SETS} - {"ps2"}
    assert set(learned.policy.classes["class5"]) == set(SETS)
    [row] = [row for row in learned.rows if (row["class"], row["transform_set"]) == ("class4", "ps2")]
    assert 0.4 < row["shrunk"] < row["change"]
    assert row["p_harm"] > 0.99
    assert learned.tau["ps2"] > 2 * learned.tau["ts"]


def test_weights_are_shares_of_the_gain() -> None:
    laid_out = designs(10)
    effects = np.random.default_rng(7).normal(0, 0.2, (10, 6))
    effects[3] = 0.5  # nothing helps it
    losses, targets, source_ids = simulate(np.random.default_rng(7), laid_out, effects)
    learned = policy_learning.learn(losses, laid_out, targets, source_ids, total=3.0)
    assert list(learned.policy.classes) == [f"class{c}" for c in range(10)] + ["*"]
    assert len(learned.rows) == 11 * 6
    for label, sets in learned.policy.classes.items():
        rows = {row["transform_set"]: row for row in learned.rows if row["class"] == label}
        gains = {name: -row["shrunk"] for name, row in rows.items() if row["p_harm"] <= 0.5}
        assert sets == pytest.approx({name: 3.0 * gain / sum(gains.values()) for name, gain in gains.items()})
        assert sum(sets.values()) == pytest.approx(3.0 if label != "class3" else 0.0)
        for row in rows.values():
            assert row["low95"] < row["shrunk"] < row["high95"]
            assert (row["p_harm"] > 0.5) == (row["shrunk"] > 0) == (row["weight"] == 0)
    assert learned.policy.classes["class3"] == {}


def test_a_class_of_one_source_or_none_gets_what_helps_all() -> None:
    rng = np.random.default_rng(8)
    laid_out = designs(10)
    losses, targets, source_ids = simulate(rng, laid_out, rng.normal(-0.1, 0.1, (10, 6)))
    kept = np.flatnonzero(~targets[:, 1].astype(bool) & ~(targets[:, 0].astype(bool) & (np.arange(300) >= 3)))
    rows = policy_learning.learn(losses[:, :, kept], laid_out, targets[kept], [source_ids[n] for n in kept]).rows
    of_class = {label: [row for row in rows if row["class"] == label] for label in ("class0", "class1", "*")}
    for one, none, overall in zip(*of_class.values(), strict=True):
        assert (one["clips"], one["sources"], none["clips"], none["sources"]) == (3, 1, 0, 0)
        assert (one["change_se"], none["change"], none["change_se"]) == (None, None, None)
        assert one["change"] is not None
        assert one["shrunk"] == none["shrunk"] == pytest.approx(overall["shrunk"])
        assert one["weight"] == none["weight"] == pytest.approx(overall["weight"])
        # one class is less certain than the mean of all
        assert one["high95"] - one["low95"] == none["high95"] - none["low95"] > overall["high95"] - overall["low95"]


def test_one_source_a_class_is_too_little_to_learn_from() -> None:
    with pytest.raises(ConfigError, match="source_id"):
        policy_learning.learn(np.ones((2, 8, 4)), designs(2), np.eye(2)[[0, 0, 1, 1]], list("aabb"))


def test_a_loss_that_is_no_number_is_an_error() -> None:
    losses = np.ones((2, 8, 4))
    losses[1, 3, 2] = np.nan
    with pytest.raises(TrainingError, match="1 of 4 validation clips"):
        policy_learning.learn(losses, designs(2), np.eye(2)[[0, 0, 1, 1]], list("abcd"))


def test_classes_that_nothing_changes_are_left_alone() -> None:
    """Each clip certain in each training: no change, no error, no division by it."""
    learned = policy_learning.learn(np.full((2, 8, 8), 1e-7), designs(2), np.eye(2)[[0, 1] * 4], list("abcdefgh"))
    assert learned.policy.classes == {"class0": {}, "class1": {}, "*": {}}
