"""What the driver refuses, and warns of, before a training begins."""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audioclf import storage
from audioclf.audio.pcm import get_any_front_end
from audioclf.config import Training
from audioclf.errors import ConfigError
from audioclf.labels import Vocabulary
from audioclf.pipelines import evaluate, train_checks
from audioclf.pipelines.evaluate import Seen
from tests.unit import test_shards
from tests.untrained import untrained

PAIR = Vocabulary(("a", "b"), multi_label=False)


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


def test_a_clip_without_a_label_among_others_of_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    train_checks._check_classes(rows([["a"], ["b"], ["a", "b"], []], [1, 2, 1, 2]))
    train_checks._check_classes(rows([["a"], ["b"]], [1, 1]))
    assert "no label" not in caplog.text
    train_checks._check_classes(rows([["a"], ["b"], [], ["a"]], [1, 1, 1, 1]))
    assert "1 of 4 rows have no label" in caplog.text


def test_it_is_told_how_clips_of_several_labels_and_of_none_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train_checks._check_classes(rows([["a"], ["b"], ["a", "b"], []], [1, 1, 1, 1]), "balanced")
    assert "1 of 4 rows have several labels" in caplog.text
    assert "--sampling balanced: the 1 rows without a label are never shown" in caplog.text


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


def test_recordings_of_one_clip_id_are_refused_and_their_copies_are_not(tmp_path: Path) -> None:
    pictures = np.zeros((2, 128, 3), np.float16)
    runs = {}
    for day in ("monday", "tuesday", "monday_again"):
        of_day = [
            {**test_shards.row(name), "uri": f"file:///{day.removesuffix('_again')}/{name}"} for name in ("a", "b")
        ]
        runs[day] = storage.to_uri(test_shards.write(tmp_path / day, of_day, pictures))
    train_checks.require_one_origin([runs["monday"], runs["monday_again"]])
    with pytest.raises(ConfigError, match=r"2 clips have .*/monday/.* and /tuesday/.*a folder that is above both"):
        train_checks.require_one_origin([runs["monday"], runs["tuesday"]])


def test_a_training_depends_on_what_the_files_hold_that_its_flags_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_uri = storage.to_uri(test_shards.write(tmp_path / "run", [test_shards.row("a")], np.zeros((1, 128, 3))))
    start, own = str(tmp_path / "start"), tmp_path / "own.yaml"
    loaded = untrained(Vocabulary(("a", "b"), multi_label=False))
    bound = []
    for _ in range(2):
        loaded.save(storage.to_uri(start))
        bound.append(train_checks.binding([shards_uri], Training(init=start)))
        next(loaded.network.parameters()).data.add_(1)
    assert bound[0]["init_weights"] != bound[1]["init_weights"]
    monkeypatch.setattr(train_checks, "_stored", lambda _: get_any_front_end("pcm44k"))
    for n_mels in (64, 96):
        own.write_text(f"base: logmel44k\nname: own\nn_mels: {n_mels}\n")
        assert train_checks.binding([shards_uri], Training(frontend=str(own)))["front_end"]["n_mels"] == n_mels
    named = Training(frontend="logmel44k")
    assert train_checks.binding([shards_uri], named) == asdict(named)


def test_what_flags_name_is_found_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train's workers have one of their own."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    monkeypatch.chdir(here)
    untrained(PAIR).save(storage.to_uri("start"))
    Path("own.yaml").write_text("base: logmel44k\nname: own\n")
    for how in (Training(model="sbcnn", init="start"), Training(model="sbcnn", frontend="own.yaml")):
        monkeypatch.chdir(here)
        expected = train_checks.beginning(how, get_any_front_end("pcm44k"))
        portable = train_checks.portable(how)
        monkeypatch.chdir(there)
        start, front_end = train_checks.beginning(portable, get_any_front_end("pcm44k"))
        assert front_end == expected[1]
        assert (start and start.weights_digest()) == (expected[0] and expected[0].weights_digest())
    assert train_checks.portable(Training()) == Training()


def test_run_directories_of_different_lengths_are_refused(tmp_path: Path) -> None:
    runs = [
        storage.to_uri(test_shards.write(tmp_path / str(n), [test_shards.row("a")], np.zeros((1, 128, n), np.float16)))
        for n in (3, 4)
    ]
    with pytest.raises(ConfigError, match=r"--shards: .*/4/.*\[128, 4\].*\[128, 3\]; extract all with the same"):
        train_checks.binding(runs, Training())


A, B = {"manifests": ["a"], "test_fold": 1}, {"manifests": ["b"], "test_fold": None}


@pytest.mark.parametrize(
    ("training", "lineage"),
    [
        ({}, []),  # a published network's
        ({"clips": 9, **A}, [A]),
        ({"clips": 9, **B, "before": [A]}, [B, A]),
    ],
)
def test_a_network_tells_all_that_it_has_learned_from(training: dict[str, Any], lineage: list[dict[str, Any]]) -> None:
    assert replace(untrained(PAIR), training=training).lineage() == lineage


def test_weights_that_learned_from_the_clips_two_trainings_ago_are_refused() -> None:
    def require(trainings: list[dict[str, Any]], measured_on: set[int], manifests: list[str]) -> None:
        latest, *before = trainings
        start = replace(untrained(PAIR), training={"clips": 9, **latest, "before": before})
        train_checks._require_unseen(start, measured_on, manifests)

    require([A, B], {1}, ["c"])
    require([A], {1}, ["a", "b"])
    require([B, A], {1}, ["a"])
    for trainings in ([A], [B, A]):
        with pytest.raises(ConfigError, match="fold 2 among them"):
            require(trainings, {2}, ["a"])
    with pytest.raises(ConfigError, match="fold 1 among them"):
        require([A, B], {1}, ["b", "c"])


@pytest.mark.parametrize(
    ("trainings", "manifests", "test_fold", "seen"),
    [
        ([], {"a"}, 1, Seen.NO),
        ([A], {"a"}, 1, Seen.NO),
        ([A], {"a"}, 2, Seen.YES),
        ([A], {"a"}, None, Seen.YES),
        ([A], {"c"}, 1, Seen.UNKNOWN),
        ([A], {"a", "c"}, 1, Seen.UNKNOWN),  # the left-out fold of one, and strangers
        ([A], {"a", "c"}, 2, Seen.YES),
        ([B, A], {"a"}, 1, Seen.UNKNOWN),
        ([B, A], {"a"}, 2, Seen.YES),
        ([B], {"b"}, 1, Seen.YES),
    ],
)
def test_whether_a_network_has_seen_what_it_is_measured_on(
    trainings: list[dict[str, Any]], manifests: set[str], test_fold: int | None, seen: Seen
) -> None:
    before = trainings[1:]
    training = {"clips": 9, **trainings[0], "before": before} if trainings else {}
    assert evaluate._seen(replace(untrained(PAIR), training=training), sorted(manifests), test_fold) is seen
