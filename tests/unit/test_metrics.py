"""Figures of an evaluation, against scikit-learn's and torchmetrics'."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multilabel_average_precision,
)

from audioclf import metrics

N, C = 400, 6
NAMES = tuple("abcdef")


@pytest.fixture
def single() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of one of six classes, right more often than not."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, C, N)
    logits = rng.normal(size=(N, C)) + 2 * np.eye(C)[true]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), np.eye(C)[true]


@pytest.fixture
def several() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of each of six classes, many of them equal; the last class does not occur."""
    rng = np.random.default_rng(1)
    targets = (rng.random((N, C)) < 0.3).astype(int)
    targets[:, -1] = 0
    return np.round(np.clip(rng.normal(0.3 + 0.3 * targets, 0.2), 0.001, 0.999), 2), targets


def test_the_calibration_error_of_one_label_is_torchmetrics(single: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = single
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(targets.argmax(1)), num_classes=C, n_bins=15, norm="l1"
    )
    assert metrics.calibration_error(probabilities, targets) == pytest.approx(float(theirs), abs=1e-6)


def test_the_calibration_error_of_several_labels_is_the_mean_over_classes(
    several: tuple[np.ndarray, np.ndarray],
) -> None:
    probabilities, targets = several[0] - 0.003, several[1]  # none on the bound of a bin, which is a matter of taste
    theirs = [
        float(binary_calibration_error(torch.tensor(p.copy()), torch.tensor(t.copy()), n_bins=15, norm="l1"))
        for p, t in zip(probabilities.T.clip(0), targets.T, strict=True)
    ]
    assert metrics.calibration_error(probabilities.clip(0), targets) == pytest.approx(np.mean(theirs), abs=1e-6)


def test_what_is_as_sure_as_it_is_right_is_calibrated() -> None:
    probabilities = np.tile([0.75, 0.25], (4, 1))
    targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    assert metrics.calibration_error(probabilities, targets) == pytest.approx(0)
    assert metrics.calibration_error(probabilities[:3], targets[:3]) == pytest.approx(0.25)


def test_mean_average_precision_is_over_the_classes_that_occur(several: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = several
    described = metrics.describe(probabilities, targets, NAMES)
    occurring = slice(0, C - 1)
    theirs = multilabel_average_precision(
        torch.from_numpy(probabilities[:, occurring]), torch.from_numpy(targets[:, occurring]), num_labels=C - 1
    )
    sklearns = average_precision_score(targets[:, occurring], probabilities[:, occurring], average="macro")
    assert described["mean_average_precision"] == pytest.approx(float(theirs), abs=1e-6)
    assert described["mean_average_precision"] == pytest.approx(sklearns, abs=1e-6)
    assert described["per_class"]["f"]["average_precision"] is None
    assert "confusion" not in described
