"""Figures of an evaluation, against scikit-learn's and torchmetrics'."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_fscore_support
from sklearn.metrics import log_loss as sklearn_log_loss
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multilabel_average_precision,
)

from audioclf import metrics
from audioclf.errors import ConfigError

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


@pytest.mark.filterwarnings("ignore:No positive")  # from both
@pytest.mark.parametrize("seed", range(5))
def test_mean_average_precision_with_ties_and_absent_classes(seed: int) -> None:
    """Both count a class that does not occur as 0, which would tell of the clips and not of the network."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((60, 12)) < rng.choice([0.0, 0.05, 0.5, 1.0], 12)).astype(int)
    targets[:, 0], targets[0, 1] = 0, 1
    probabilities = np.round(rng.random(targets.shape), 1)
    probabilities[:, 1] = 0.5  # all alike
    described = metrics.describe(probabilities, targets, tuple("abcdefghijkl"))
    occurring = targets.any(0)
    found = [of_class["average_precision"] for of_class in described["per_class"].values()]
    assert [value is not None for value in found] == occurring.tolist()
    theirs = multilabel_average_precision(torch.from_numpy(probabilities), torch.from_numpy(targets), num_labels=12)
    sklearns = average_precision_score(targets, probabilities, average="macro")
    for macro in (float(theirs), float(sklearns)):
        assert described["mean_average_precision"] * occurring.mean() == pytest.approx(macro, abs=1e-6)


def test_the_figures_of_one_label_are_those_of_scikit_learn(single: tuple[np.ndarray, np.ndarray]) -> None:
    """Of float32 targets, as the vocabulary gives them, without the clips of one class and never guessing another."""
    probabilities, targets = single[0], single[1].astype(np.float32)
    kept = targets[:, 2] == 0
    probabilities, targets = probabilities[kept], targets[kept]
    probabilities[:, 4] = 0.01 * probabilities[:, 4]
    probabilities /= probabilities.sum(1, keepdims=True)
    true, guessed = targets.argmax(1), probabilities.argmax(1)
    described = metrics.describe(probabilities, targets, NAMES)
    precision, recall, _, clips = precision_recall_fscore_support(true, guessed, labels=range(C), zero_division=0)  # pyright: ignore[reportArgumentType]
    of_class = list(described["per_class"].values())
    np.testing.assert_allclose([one["precision"] for one in of_class], precision)
    np.testing.assert_allclose([one["recall"] for one in of_class], recall)
    assert [one["clips"] for one in of_class] == np.asarray(clips).tolist()
    assert (of_class[2]["clips"], of_class[2]["recall"], of_class[2]["average_precision"]) == (0, 0, None)
    assert (np.asarray(guessed) != 4).all()
    assert of_class[4]["precision"] == 0
    assert described["confusion"] == confusion_matrix(true, guessed, labels=range(C)).tolist()
    assert described["log_loss"] == pytest.approx(sklearn_log_loss(true, probabilities, labels=range(C)))
    assert described["calibration_error"] == metrics.calibration_error(probabilities, targets)
    assert "calibration_error" not in of_class[0]


def test_the_figures_of_several_labels_are_of_each_class(several: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, targets = several[0].clip(0.01, 0.99), several[1]  # what 0 costs is a matter of taste
    described = metrics.describe(probabilities, targets, NAMES)
    losses = [sklearn_log_loss(t, p, labels=[0, 1]) for p, t in zip(probabilities.T, targets.T, strict=True)]
    assert described["log_loss"] == pytest.approx(np.mean(losses))
    errors = [one["calibration_error"] for one in described["per_class"].values()]
    assert described["calibration_error"] == pytest.approx(np.mean(errors))
    # Of a class that no clip has, all that is claimed is wrong.
    assert errors[-1] == pytest.approx(probabilities[:, -1].mean())


def test_classes_predicted_each_by_itself_are_measured_so_whatever_the_clips() -> None:
    """Clips of one label each, by chance, and sigmoids that do not add up to 1."""
    probabilities = np.array([[0.5, 0.25], [0.5, 0.75]])
    targets = np.array([[1, 0], [0, 1]])
    described = metrics.describe(probabilities, targets, ("a", "b"), multi_label=True)
    assert described["log_loss"] == pytest.approx(-np.log([0.5, 0.75, 0.5, 0.75]).mean())
    assert [one["calibration_error"] for one in described["per_class"].values()] == [0.0, 0.25]
    assert described["calibration_error"] == 0.125
    one_of_two = metrics.describe(probabilities, targets, ("a", "b"))
    assert one_of_two["log_loss"] == pytest.approx(-np.log([0.5, 0.75]).mean())
    assert one_of_two["calibration_error"] == pytest.approx(0.375)  # sure by 0.5 and 0.75, and right both times


def test_a_label_held_to_be_impossible_costs_no_more_than_16_nats() -> None:
    for multi_label in (False, True):
        losses = metrics.log_loss(np.array([[0.0, 1.0]], np.float32), np.array([[1, 0]]), multi_label)
        np.testing.assert_allclose(losses, [np.log(1e7)], rtol=1e-6)


@pytest.mark.parametrize(("targets", "right"), [([1, 1, 1], 1.0), ([1, 0, 1], 2 / 3)])
def test_one_class_alone_is_measured(targets: list[int], right: float) -> None:
    probabilities, column = np.array([[0.9], [0.5], [0.8]]), np.array(targets)[:, None]
    described = metrics.describe(probabilities, column, ("a",))
    assert described["accuracy"] == pytest.approx(right)
    assert described["mean_average_precision"] == 1.0  # whoever has the label comes first
    assert described["per_class"]["a"]["precision"] == pytest.approx(right)  # always guessed
    assert described["per_class"]["a"]["recall"] == 1.0


def test_one_clip_is_measured() -> None:
    described = metrics.describe(np.array([[0.25, 0.75]]), np.array([[0, 1]]), ("a", "b"))
    assert (described["accuracy"], described["mean_average_precision"]) == (1.0, 1.0)
    assert described["calibration_error"] == 0.25
    assert described["confusion"] == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("probabilities", "targets", "says"),
    [
        (np.empty((0, 2)), np.empty((0, 2)), "no clips"),
        (np.full((3, 2), 0.5), np.zeros((3, 2)), "none of the 3 clips to measure has a label"),
        (np.array([[0.5, np.nan]]), np.array([[1, 0]]), "no numbers"),
    ],
    ids=["no clips", "no labels", "NaN"],
)
def test_what_can_not_be_measured_is_told(probabilities: np.ndarray, targets: np.ndarray, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        metrics.describe(probabilities, targets, ("a", "b"))
