"""How well a set of clips was classified."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support

BOOTSTRAPS = 1000


def accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Share of clips whose likeliest class is (one of) theirs.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
    """
    return float(hits(probabilities, targets).mean())


def accuracy_ci95(probabilities: np.ndarray, targets: np.ndarray, source_ids: list[str]) -> list[float]:
    """95 % interval of the accuracy, by drawing sources (not clips, which resemble one another) anew."""
    return mean_ci95(hits(probabilities, targets), source_ids)


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
    drawn = per_source[:, rng.integers(0, n, (BOOTSTRAPS, n))].sum(axis=2)
    return [float(bound) for bound in np.quantile(drawn[0] / drawn[1], [0.025, 0.975])]


def describe(probabilities: np.ndarray, targets: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Everything but the folds.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.
        names: [C].

    Returns:
        `accuracy`; `calibration_error`; `mean_average_precision` over the classes that occur; `per_class` with
        precision, recall, average precision (None where the class does not occur) and number of clips; `confusion`
        [C][C], rows the true class, where every clip has one label.
    """
    predicted = np.eye(len(names), dtype=int)[probabilities.argmax(1)]
    precision, recall, _, _ = precision_recall_fscore_support(targets, predicted, zero_division=0)  # pyright: ignore[reportArgumentType]
    support = targets.sum(0).astype(int)
    precisions = [
        float(average_precision_score(targets[:, c], probabilities[:, c])) if support[c] else None
        for c in range(len(names))
    ]
    described: dict[str, Any] = {
        "accuracy": accuracy(probabilities, targets),
        "calibration_error": calibration_error(probabilities, targets),
        "clips": len(targets),
        "mean_average_precision": float(np.mean([value for value in precisions if value is not None])),
        "per_class": {
            name: {
                "average_precision": precisions[c],
                "clips": int(support[c]),
                "precision": float(np.asarray(precision)[c]),
                "recall": float(np.asarray(recall)[c]),
            }
            for c, name in enumerate(names)
        },
    }
    if (targets.sum(1) == 1).all():
        true, guessed = targets.argmax(1), probabilities.argmax(1)
        described["confusion"] = confusion_matrix(true, guessed, labels=range(len(names))).tolist()
    return described


CALIBRATION_BINS = 15


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """How far probabilities are from the shares of clips for which they are right: the mean over clips, within bins.

    Where every clip has one label, of the likeliest class; otherwise of each class by itself, and the mean of these.

    Args:
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv 1706.04599: bins of equal width.
    """
    if (targets.sum(1) == 1).all():
        return _binned_error(probabilities.max(1), hits(probabilities, targets))
    return float(np.mean([_binned_error(p, t) for p, t in zip(probabilities.T, targets.T, strict=True)]))


def _binned_error(probabilities: np.ndarray, right: np.ndarray) -> float:
    bins = np.clip(np.ceil(probabilities * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    # |sum of p − number right| of a bin is its size times the distance of its means.
    return float(np.abs(np.bincount(bins, probabilities - right)).sum() / len(right))


def hits(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[N] of zeros and ones: whether a clip's likeliest class is (one of) its own."""
    return targets[np.arange(len(targets)), probabilities.argmax(1)]
