"""What the driver refuses, and warns of, before a training begins."""

import logging

import pyarrow as pa
import pytest

from audioclf.errors import ConfigError
from audioclf.pipelines import train_checks


def rows(labels: list[list[str]], folds: list[int | None]) -> pa.Table:
    return pa.table({"labels": pa.array(labels, pa.list_(pa.string())), "fold": pa.array(folds, pa.int32())})


@pytest.mark.parametrize(("labels", "told"), [([["a"], ["a"]], r"\['a'\]"), ([[], []], "no labels")])
def test_fewer_than_two_classes_are_refused(labels: list[list[str]], told: str) -> None:
    with pytest.raises(ConfigError, match=f"the shards have {told}: a network tells two classes"):
        train_checks._check_classes(rows(labels, [1, 2]))


def test_a_class_that_is_not_in_every_fold_is_told(caplog: pytest.LogCaptureFixture) -> None:
    labels = [["a"], ["a", "b"], ["a"], ["b"], ["c"], ["d"]]
    train_checks._check_classes(rows(labels, [1, 2, 3, 3, 2, None]))  # clips of no fold are always trained on
    assert "2 of 3 classes are not in every one of the 3 folds: b (2 folds), c (fold 2 alone)" in caplog.text


@pytest.mark.parametrize("folds", [[1, 1, 2, 2], [None] * 4])
def test_classes_in_every_fold_are_not_worth_a_word(folds: list[int | None], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train_checks._check_classes(rows([["a"], ["b"], ["a"], ["b"]], folds))
    assert not caplog.text


@pytest.mark.parametrize(("valid", "told"), [([50, 50, 100], "33 % of the rows"), ([80, 90, 100], "")])
def test_much_padding_is_told_to_who_trains_on_crops(
    valid: list[int], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    train_checks._warn_of_padding(pa.chunked_array([pa.array(valid[:1], pa.int32()), pa.array(valid[1:], pa.int32())]))
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)
