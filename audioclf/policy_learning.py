"""Learn for which class which transform set helps, from trainings laid out as a two-level factorial design.

A `design` says which sets each class is augmented with in each training. The trainings' log-loss of their validation
clips goes into `learn`, which estimates what each set changes for each class (`changes`), pulls classes with little
evidence towards what the set does to all classes (`shrink`), and makes a policy of what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import hadamard
from scipy.stats import norm, t

from audioclf.errors import ConfigError, TrainingError
from audioclf.labels import EVERY_CLASS
from audioclf.policy import Policy

TOTAL_WEIGHT = 4.0
"""Weight of all augmented copies of a segment together, against the original's 1."""
MAX_P_HARM = 0.5
"""A set that more probably than this harms a class is not used for it."""
MIN_SE = 1e-6
"""Nats: below it a standard error is rounding, as where every clip of a class is certain in every training."""
MIN_SOURCES = 2
"""Fewer tell nothing of how much sources differ."""
MIN_SOURCES_FOR_NOISE = 5
"""The square of a ratio to a standard error of fewer sources has no finite mean, or hardly one."""
TAU_POINTS = 400
Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True, eq=False)
class Design:
    """Which sets each class is augmented with in each training of one repetition.

    Attributes:
        transform_sets: K names.
        classes: C names.
        signs: [n_runs, C, n_runs - 1] int8: 1 on, -1 off; the first K columns are the sets, the others dummies, which
            nothing hangs on: an effect that they seem to have is noise.
        policies: n_runs, one for each training.
    """

    transform_sets: tuple[str, ...]
    classes: tuple[str, ...]
    signs: np.ndarray
    policies: tuple[Policy, ...]


def design(
    transform_sets: Sequence[str], classes: Sequence[str], repetition: int, total: float = TOTAL_WEIGHT
) -> Design:
    """The trainings of one repetition: over them, each class has every set on in one half and off in the other.

    The sets are columns of a Hadamard matrix, so that each set's effect can be told from the others'; one column at
    least is left as a dummy. Each class goes through the rows in an order of its own, so that one training augments
    some classes with a set and others without. Among each n_runs classes the orders are a Latin square: each training
    has every row once. Odd repetitions turn all signs of the one before, which keeps interactions of two sets out of
    the effects of single ones. As many classes have a set in one training as in another: what
    it does to all of them at once, through the layers they share, is no part of an effect.

    Args:
        transform_sets: names.
        classes: names, in the order of the targets' columns.
        repetition: from 0.
        total: the weight of a class's sets together, on average: each that is on weighs 2 · total / K, whatever the
            others, so that its effect is that of having it, not of having less of the others.

    Raises:
        ConfigError: no set, no class, one named twice, or a class named `*`.

    Source: Plackett & Burman, "The design of optimum multifactorial experiments", Biometrika 33 (1946); Box, Hunter &
    Hunter, "Statistics for Experimenters", 2nd ed. (2005), chapters 5 and 6 (foldover).
    """
    for kind, names in (("transform set", transform_sets), ("class", classes)):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{kind}: {', '.join(names) or 'none'}: name at least one, each once")
    if EVERY_CLASS in classes:
        raise ConfigError(f"a class is named {EVERY_CLASS!r}, which in a policy stands for all others; rename it")
    n_runs = 2 ** math.ceil(math.log2(len(transform_sets) + 2))
    matrix = hadamard(n_runs)[:, 1:].astype(np.int8) * (-1 if repetition % 2 else 1)
    signs = matrix[_orders(len(classes), n_runs, np.random.default_rng(repetition // 2))]
    policies = tuple(_policy_of_run(transform_sets, classes, of_run, total) for of_run in signs)
    return Design(tuple(transform_sets), tuple(classes), signs, policies)


def _orders(n_classes: int, n_runs: int, rng: np.random.Generator) -> np.ndarray:
    """[n_runs, n_classes]: the row that a class takes in a run."""
    runs = np.arange(n_runs)[:, None]
    squares = [rng.permutation(n_runs)[(runs + rng.permutation(n_runs)) % n_runs] for _ in range(0, n_classes, n_runs)]
    return np.concatenate(squares, axis=1)[:, :n_classes]


def _policy_of_run(transform_sets: Sequence[str], classes: Sequence[str], signs: np.ndarray, total: float) -> Policy:
    weight = 2 * total / len(transform_sets)
    on = [[name for name, sign in zip(transform_sets, row, strict=False) if sign > 0] for row in signs]
    return Policy({label: dict.fromkeys(sets, weight) for label, sets in zip(classes, on, strict=True)})


@dataclass(frozen=True, eq=False)
class Changes:
    """What each set changes in the log-loss of each class's clips, each class by itself; negative helps.

    Attributes:
        change: [C, K] nats: mean over the class's clips of loss with the set on less loss with it off; NaN without
            clips.
        se: [C, K] its standard error, inflation included; NaN where clips of fewer than 2 sources make none.
        clips: [C] how many; a clip of several labels counts for each of their classes.
        sources: [C] how many sources they are cut from.
        inflation: what the standard errors over sources were multiplied with, 1 or more.
    """

    change: np.ndarray
    se: np.ndarray
    clips: np.ndarray
    sources: np.ndarray
    inflation: float


def changes(losses: np.ndarray, designs: Sequence[Design], targets: np.ndarray, source_ids: Sequence[str]) -> Changes:
    """Estimate the effect of each set on each class from one clip's losses with the set on and off.

    Clips of one source resemble one another, so the standard error counts sources (see `_clustered_se`). It does not
    see what all clips of a class share in a training: its random start. The dummy columns do: where their effects
    exceed their standard errors, all are inflated by the root mean square of that ratio over classes of 5 sources or
    more. Where there are none, it is the ratio of the root mean squares over all classes.

    Args:
        losses: [n_repetitions, n_runs, N] nats: of each clip, by the training that it was a validation clip of.
        designs: n_repetitions, for the same sets and classes.
        targets: [N, C] of zeros and ones. A clip of several labels counts for each of their classes, with the
            trainings that have a set on for that class.
        source_ids: [N].

    Raises:
        TrainingError: a loss is NaN or infinite.
    """
    _check(losses, designs, targets, source_ids)
    n_sets = len(designs[0].transform_sets)
    _, source = np.unique(np.asarray(source_ids), return_inverse=True)
    signs = np.stack([one.signs for one in designs])  # [repetition, run, class, column]
    n_classes, n_columns = signs.shape[2:]
    change, se = np.full((2, n_classes, n_columns), np.nan)
    clips, sources = np.zeros((2, n_classes), int)
    for c in range(n_classes):
        members = np.flatnonzero(np.asarray(targets)[:, c])
        clips[c], sources[c] = len(members), len(np.unique(source[members]))
        if not len(members):
            continue
        # each column is on in one half of the trainings: mean on - mean off = twice the mean of sign x loss
        of_clips = 2 * np.tensordot(losses[:, :, members], signs[:, :, c], ((0, 1), (0, 1))) / signs[:, :, 0, 0].size
        change[c] = of_clips.mean(0)
        if sources[c] >= MIN_SOURCES:
            se[c] = _clustered_se(of_clips, source[members])
    inflation = _inflation(change[:, n_sets:], se[:, n_sets:], sources)
    return Changes(change[:, :n_sets], inflation * se[:, :n_sets], clips, sources, inflation)


def _check(losses: np.ndarray, designs: Sequence[Design], targets: np.ndarray, source_ids: Sequence[str]) -> None:
    first = designs[0]
    assert all(one.transform_sets == first.transform_sets and one.classes == first.classes for one in designs)
    assert losses.shape == (len(designs), len(first.policies), len(source_ids)), losses.shape
    assert targets.shape == (len(source_ids), len(first.classes)), targets.shape
    broken = ~np.isfinite(losses).all((0, 1))
    if broken.any():
        raise TrainingError(f"learning a policy: {broken.sum()} of {broken.size} validation clips have no finite loss")


def _clustered_se(values: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Standard error of the mean of clips that come in G sources, for a normal interval.

    sqrt(G / (G - 1) * sum over sources of (sum of the source's residuals)^2) / n, times the ratio of the 95 %
    quantiles of Student's t of G - 1 degrees and of the normal distribution: few sources make an uncertain error.

    Args:
        values: [n, ...].
        source: [n] int.

    Source: Liang & Zeger, Biometrika 73 (1986); Cameron & Miller, "A practitioner's guide to cluster-robust
    inference", J. Human Resources 50 (2015), for G / (G - 1) and t of G - 1.
    """
    _, source = np.unique(source, return_inverse=True)
    of_source = np.zeros((source.max() + 1, *values.shape[1:]))
    np.add.at(of_source, source, values - values.mean(0))
    n_sources = len(of_source)
    se = np.sqrt(n_sources / (n_sources - 1) * (of_source**2).sum(0)) / len(values)
    return np.maximum(se * t.ppf(0.975, n_sources - 1) / Z95, MIN_SE)


def _inflation(change: np.ndarray, se: np.ndarray, sources: np.ndarray) -> float:
    """By how much the dummies [C, D] vary more than their standard errors say; 1 at least."""
    counted, known = sources >= MIN_SOURCES_FOR_NOISE, sources >= MIN_SOURCES
    if counted.any():
        return math.sqrt(max(1.0, float(((change / se)[counted] ** 2).mean())))
    return math.sqrt(max(1.0, float((change[known] ** 2).sum() / (se[known] ** 2).sum()))) if known.any() else 1.0


@dataclass(frozen=True, eq=False)
class Shrunk:
    """One set's effects on C classes, after each has lent the others strength.

    Attributes:
        mean: [C] nats.
        sd: [C].
        overall: the mean effect over all classes that there could be.
        overall_sd: its uncertainty.
        tau: standard deviation of the effect from class to class.
    """

    mean: np.ndarray
    sd: np.ndarray
    overall: float
    overall_sd: float
    tau: float


def shrink(change: np.ndarray, se: np.ndarray) -> Shrunk:
    """Pull each class's change towards all classes': b_c ~ N(effect_c, se_c²), effect_c ~ N(mu, tau²).

    Given tau, with w_c = 1 / (tau² + se_c²) and B_c = se_c² w_c: mu has the mean sum(w b) / sum(w) and the variance
    V = 1 / sum(w), effect_c the mean B_c mu + (1 - B_c) b_c and the variance B_c tau² + B_c² V, where the second term
    is mu's uncertainty. A class without a standard error has B_c = 1: N(mu, tau² + V).

    tau is averaged over, with a flat prior, its likelihood being sqrt(V) prod(sqrt(w) exp(-w (b - mu)² / 2)). A point
    estimate in its place (as Paule & Mandel's) is often 0 with so few classes: all are then taken to be alike, and
    the 95 % intervals hold the truth in 70 to 88 % of cases only.

    Args:
        change: [C] nats.
        se: [C], NaN where there is none; one class at least has one.

    Source: Gelman et al., "Bayesian Data Analysis", 3rd ed. (2013), section 5.4, equations 5.17 to 5.21; the prior:
    Gelman, Bayesian Analysis 1 (2006); shrinkage: Morris, "Parametric empirical Bayes inference", JASA 78 (1983).
    """
    known = np.isfinite(se)
    b, variance = change[known], se[known] ** 2
    # tau = upper u², so that points are dense near 0; dtau = 2 upper u du
    u = (np.arange(TAU_POINTS)[:, None] + 0.5) / TAU_POINTS
    tau2 = (5 * u**2) ** 2 * (np.var(b) + np.median(variance))
    w = 1 / (tau2 + variance)
    v = 1 / w.sum(1, keepdims=True)
    mu = v * (w @ b)[:, None]
    log_p = np.log(u[:, 0]) + 0.5 * (np.log(v[:, 0]) + (np.log(w) - w * (b - mu) ** 2).sum(1))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    pull = np.ones((TAU_POINTS, len(change)))
    pull[:, known] = variance * w
    mean, sd = _mixture(p, pull * mu + (1 - pull) * np.where(known, change, 0), pull * tau2 + pull**2 * v)
    overall, overall_sd = _mixture(p, mu, v)
    return Shrunk(mean, sd, float(overall[0]), float(overall_sd[0]), float(p @ np.sqrt(tau2[:, 0])))


def _mixture(p: np.ndarray, means: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the mixture of rows."""
    mean = p @ means
    return mean, np.sqrt(p @ (variances + (means - mean) ** 2))


@dataclass(frozen=True, eq=False)
class Learned:
    """A policy and what it rests on.

    Attributes:
        policy: for each class, and `*`: the sets that probably help, by their gain.
        rows: a dict for each class, then for `*`, and set: class, transform_set, clips, sources, change and change_se
            (see `Changes`; None for NaN), shrunk, low95, high95 (nats), p_harm, weight. For `*`, change is the mean of
            the classes' and shrunk the effect on all classes.
        inflation: see `changes`.
        tau: nats: how much each set's effect varies from class to class.
    """

    policy: Policy
    rows: list[dict[str, Any]]
    inflation: float
    tau: dict[str, float]


def learn(
    losses: np.ndarray,
    designs: Sequence[Design],
    targets: np.ndarray,
    source_ids: Sequence[str],
    total: float = TOTAL_WEIGHT,
) -> Learned:
    """Keep for each class the sets that probably help, weighted by how much.

    Args:
        losses: [n_repetitions, n_runs, N], see `changes`; so are designs, targets and source_ids.
        total: weight of a class's sets together; use the design's.

    Raises:
        ConfigError: no class has clips of two sources.
        TrainingError: a loss is NaN or infinite.
    """
    found = changes(losses, designs, targets, source_ids)
    known = found.sources >= MIN_SOURCES
    if not known.any():
        raise ConfigError("source_id: no class has clips of two sources, so no policy can be learned; give one by hand")
    shrunk = [shrink(change, se) for change, se in zip(found.change.T, found.se.T, strict=True)]
    # [C + 1, K]: the classes, then all of them
    mean, sd = np.array([[[*one.mean, one.overall], [*one.sd, one.overall_sd]] for one in shrunk]).transpose(1, 2, 0)
    p_harm = norm.cdf(mean / sd)
    gain = np.where(p_harm > MAX_P_HARM, 0, np.maximum(-mean, 0))
    weight = total * gain / np.maximum(gain.sum(1, keepdims=True), np.finfo(float).tiny)
    values = {
        "change": np.vstack([found.change, found.change[known].mean(0)]),
        "change_se": np.vstack([found.se, np.sqrt((found.se[known] ** 2).sum(0)) / known.sum()]),
        "shrunk": mean,
        "low95": mean - Z95 * sd,
        "high95": mean + Z95 * sd,
        "p_harm": p_harm,
        "weight": weight,
    }
    labels, sets = [*designs[0].classes, EVERY_CLASS], designs[0].transform_sets
    clips, sources = [*found.clips, len(losses[0, 0])], [*found.sources, len(np.unique(np.asarray(source_ids)))]
    rows = [
        {"class": label, "transform_set": name, "clips": int(clips[c]), "sources": int(sources[c])}
        | {field: _number(value[c, k]) for field, value in values.items()}
        for c, label in enumerate(labels)
        for k, name in enumerate(sets)
    ]
    kept = {label: {sets[k]: float(of[k]) for k in of.nonzero()[0]} for label, of in zip(labels, weight, strict=True)}
    tau = {name: one.tau for name, one in zip(sets, shrunk, strict=True)}
    return Learned(Policy(kept), rows, found.inflation, tau)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
