"""How well a set of clips was classified."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from audioclf.errors import ConfigError

BOOTSTRAPS = 1000


def accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Share of clips whose likeliest class is (one of) theirs.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
    """
    return float(hits(probabilities, targets).mean())


def mean_ci95(values: np.ndarray, source_ids: Sequence[str], seed: int = 0) -> list[float]:
    """95 % interval of the mean of a figure of each clip, by drawing sources anew.

    Args:
        values: [N]; differences of two networks for a paired interval.
        source_ids: [N].
        seed: of the draws.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
    """
    _, source = np.unique(source_ids, return_inverse=True)
    per_source = np.stack([np.bincount(source, values), np.bincount(source)])
    rng = np.random.default_rng(seed)
    n = per_source.shape[1]
    means = []
    for _ in range(BOOTSTRAPS):  # all at once would take 24 kB a source
        total, count = per_source[:, rng.integers(0, n, n)].sum(axis=1)
        means.append(total / count)
    return [float(bound) for bound in np.quantile(means, [0.025, 0.975])]


def describe(
    probabilities: np.ndarray, targets: np.ndarray, names: tuple[str, ...], multi_label: bool | None = None
) -> dict[str, Any]:
    """Everything but the folds.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
        names: [C].
        multi_label: whether the classes were predicted each by itself; default: unless every clip has one label.

    Returns:
        `accuracy`; `calibration_error`; `log_loss`; `clips`; `mean_average_precision` over the classes that occur;
        `per_class` with `precision` and `recall` of the likeliest class, 0 where there is nothing to take a share of,
        `average_precision` (None where the class does not occur), number of `clips`, and `calibration_error` if
        multi_label; `confusion` [C][C], rows the true class, where every clip has one label.

    Raises:
        ConfigError: there are no clips, none has a label, or a probability is no number.
    """
    _check(probabilities, targets)
    one_label = _one_label(targets)
    multi_label = not one_label if multi_label is None else multi_label
    guessed = probabilities.argmax(1)
    predicted = np.eye(len(names))[guessed]
    right, support = (predicted * targets).sum(0), targets.sum(0)
    precisions = average_precisions(probabilities, targets)
    of_class: dict[str, Sequence[Any]] = {
        "average_precision": precisions,
        "clips": support.astype(int).tolist(),
        "precision": (right / np.maximum(predicted.sum(0), 1)).tolist(),
        "recall": (right / np.maximum(support, 1)).tolist(),
    }
    if multi_label:
        of_class["calibration_error"] = class_calibration_errors(probabilities, targets)
    described: dict[str, Any] = {
        "accuracy": accuracy(probabilities, targets),
        "calibration_error": calibration_error(probabilities, targets, multi_label),
        "clips": len(targets),
        "log_loss": float(log_loss(probabilities, targets, multi_label).mean()),
        "mean_average_precision": float(np.mean([value for value in precisions if value is not None])),
        "per_class": {
            name: {key: values[c] for key, values in of_class.items()} for c, name in enumerate(names)
        },
    }  # fmt: skip
    if one_label:
        described["confusion"] = (targets.T @ predicted).astype(int).tolist()
    return described


def mean_of(described: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `describe` says of several networks on the same clips, as one: means; of the confusions the sum."""
    together = _mean_of(described)
    if "confusion" in together:
        together["confusion"] = np.sum([one["confusion"] for one in described], axis=0).tolist()
    return together


def _mean_of(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        return {key: _mean_of([value[key] for value in values]) for key in first}
    return float(np.mean(values)) if isinstance(first, float) else first


def average_precisions(probabilities: np.ndarray, targets: np.ndarray) -> list[float | None]:
    """Of each class, how well its clips come before the others; None for a class that no clip has.

    Such a class does not count in the mean. (scikit-learn and torchmetrics count it as 0.)

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
    """
    return [
        float(average_precision_score(target, probability)) if target.any() else None
        for probability, target in zip(probabilities.T, targets.T, strict=True)
    ]


MIN_PROBABILITY = 1e-7
"""Of a label, in its log-loss: one that was held to be impossible does not outweigh all others."""


def log_loss(probabilities: np.ndarray, targets: np.ndarray, multi_label: bool) -> np.ndarray:
    """How surprised a network is by each clip's labels, in nats.

    Args:
        probabilities: [N, C], taken as MIN_PROBABILITY at least (and 1 - MIN_PROBABILITY at most where `multi_label`).
        targets: [N, C] of zeros and ones, one 1 a row unless `multi_label`.
        multi_label: binary cross-entropy, its mean over the classes.

    Returns:
        [N] float64.
    """
    # float64 first: in float32, 1 - 1e-7 is some 20 % off
    probabilities = np.asarray(probabilities, np.float64)
    if not multi_label:
        return -np.log(np.maximum((probabilities * targets).sum(1), MIN_PROBABILITY))
    probabilities = np.clip(probabilities, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return -np.log(np.where(targets > 0, probabilities, 1 - probabilities)).mean(1)


CALIBRATION_BINS = 15


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, multi_label: bool | None = None) -> float:
    """How far probabilities are from the shares of clips for which they are right: the mean over clips, within bins.

    Of the likeliest class; where the classes were predicted each by itself, of each class, and the mean of these, with
    the classes that no clip has.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
        multi_label: whether the classes were predicted each by itself; default: unless every clip has one label.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv 1706.04599: 15 bins of equal width.
    """
    if not _one_label(targets) if multi_label is None else multi_label:
        return float(np.mean(class_calibration_errors(probabilities, targets)))
    return _binned_error(probabilities.max(1), hits(probabilities, targets))


def class_calibration_errors(probabilities: np.ndarray, targets: np.ndarray) -> list[float]:
    """Of each class by itself: how far its probabilities are from the shares of clips that have it."""
    return [_binned_error(p, t) for p, t in zip(probabilities.T, targets.T, strict=True)]


def _binned_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    bins = np.clip(np.ceil(probabilities * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    # |sum of p − number right| of a bin is its size times the distance of its means.
    return float(np.abs(np.bincount(bins, probabilities - right)).sum() / len(right))


def _one_label(targets: np.ndarray) -> bool:
    return bool((targets.sum(1) == 1).all())


def _check(probabilities: np.ndarray, targets: np.ndarray) -> None:
    assert probabilities.shape == targets.shape, (probabilities.shape, targets.shape)
    if not len(targets):
        raise ConfigError("there are no clips to measure")
    if not targets.any():
        raise ConfigError(f"none of the {len(targets)} clips to measure has a label: there is no average precision")
    if not np.isfinite(probabilities).all():
        raise ConfigError(
            "the network gives probabilities that are no numbers: its weights are damaged, or of a failed training"
        )


def hits(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[N] of zeros and ones: whether a clip's likeliest class is (one of) its own."""
    return targets[np.arange(len(targets)), probabilities.argmax(1)]
