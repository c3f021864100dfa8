"""Thresholds: learned on clips, written into checkpoints, read from files."""

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_curve, precision_score, recall_score

from audioclf import checkpoint, models, storage, thresholds
from audioclf.audio.frontend import get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.config import EvaluateConfig
from audioclf.errors import CheckpointMismatchError, ConfigError
from audioclf.labels import Vocabulary
from audioclf.pipelines import evaluate
from audioclf.rundir import RunDirectory
from audioclf.units import Unit
from tests.unit import extracting
from tests.unit.extracting import Wav, noise


def learn(probabilities: Any, targets: Any, dtype: type = np.float64) -> float:
    """Of a single class."""
    column = np.array(probabilities, dtype)[:, None]
    (found,) = thresholds.learn(column, np.array(targets, np.float32)[:, None])
    return float(found)


# --- learning


def f1_of(counted: np.ndarray, targets: np.ndarray) -> Fraction:
    right = int((counted & targets).sum())
    return Fraction(2 * right, int(counted.sum() + targets.sum()))


PROBABILITY = st.one_of(
    st.integers(0, 8).map(lambda eighths: eighths / 8),  # many of them equal
    st.floats(0, 1, width=32),
)


@given(st.lists(st.tuples(PROBABILITY, st.booleans()), min_size=6, max_size=25), st.sampled_from([np.float32, float]))
def test_it_is_the_highest_cut_with_the_best_f1_of_all(clips: list[tuple[float, bool]], dtype: type) -> None:
    probabilities, targets = np.array([p for p, _ in clips], dtype), np.array([t for _, t in clips])
    found = learn(probabilities, targets, dtype)
    if targets.sum() < 5 or targets.all():
        assert np.isnan(found)
        return
    values = np.unique(probabilities.astype(np.float64))
    f1 = {value: f1_of(probabilities >= value, targets) for value in values}
    best = max(value for value in values if f1[value] == max(f1.values()))
    np.testing.assert_array_equal(probabilities >= np.float64(found), probabilities >= best)
    lower = max((value for value in values if value < best), default=0.0)
    assert found == (lower + best) / 2 or (found == best and np.nextafter(lower, 1) >= best)


@pytest.mark.parametrize("seed", range(3))
def test_scikit_learn_finds_no_better_cut(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.random((400, 7)) < [0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 0.95]
    probabilities = 1 / (1 + np.exp(-rng.normal(2 * targets - 1, 1.5))).astype(np.float32)
    found = thresholds.learn(probabilities, targets.astype(np.float32))
    figures = thresholds.measure(found, probabilities, targets.astype(np.float32))
    for c in range(7):
        precision, recall, _ = precision_recall_curve(targets[:, c], probabilities[:, c])
        best = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
        counted = probabilities[:, c].astype(np.float64) >= found[c]
        assert f1_score(targets[:, c], counted) == pytest.approx(best, rel=1e-12)
        assert figures["threshold"][c] == found[c]
        for key, reference in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert figures[f"{key}_at_threshold"][c] == pytest.approx(reference(targets[:, c], counted), rel=1e-12)


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    # 3 of 3 right: F1 = 2·3 / (3 + 6) = 2/3; all 12, 6 of them right: 2·6 / (12 + 6) = 2/3; in between less.
    probabilities = [0.9, 0.8, 0.7] + [0.5] * 6 + [0.2, 0.1, 0.1]
    targets = [1, 1, 1] + [0] * 6 + [1, 1, 1]
    assert f1_score(targets, [1] * 12) == f1_score(targets, [1] * 3 + [0] * 9)
    assert learn(probabilities, targets) == pytest.approx(0.6)


def test_it_lies_midway_between_two_clips() -> None:
    assert learn([0.75] * 5 + [0.25], [1] * 5 + [0]) == 0.5
    assert learn([0.5] * 5 + [0.5], [1] * 5 + [0]) == 0.25  # every clip counts: midway to 0
    assert learn([0.0] * 5 + [0.0], [1] * 5 + [0]) == 0.0


def test_rounding_of_float32_does_not_move_a_clip_to_the_other_side() -> None:
    rng = np.random.default_rng(0)
    targets = np.repeat([1, 0], 50)
    probabilities = np.where(targets, 0.31, 0.3) + rng.uniform(-1e-3, 1e-3, 100)
    found = learn(probabilities, targets, np.float32)
    noisy = probabilities.astype(np.float32) + rng.uniform(-1e-6, 1e-6, 100).astype(np.float32)
    np.testing.assert_array_equal(noisy >= np.float64(found), targets)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("upper", [1e-30, 0.3, 1.0])
def test_it_tells_even_neighbouring_numbers_apart(upper: float, dtype: type) -> None:
    high = np.array(upper, dtype)
    low = np.nextafter(high, dtype(0))
    found = learn([high] * 5 + [low] * 5, [1] * 5 + [0] * 5, dtype)
    assert float(low) < found <= float(high)


def test_too_few_clips_of_a_class_teach_nothing() -> None:
    probabilities = np.tile(np.linspace(0.05, 0.95, 10)[:, None], 4)
    targets = np.zeros((10, 4))
    targets[-4:, 0] = targets[-5:, 1] = targets[:, 2] = 1  # 4; 5; all; none
    found = thresholds.learn(probabilities, targets)
    np.testing.assert_allclose(found, [np.nan, 0.5, np.nan, np.nan])
    figures = thresholds.measure(found, probabilities, targets)
    assert [values[0] for values in figures.values()] == [None] * 4
    assert [values[1] for values in figures.values()] == [found[1], 1.0, 1.0, 1.0]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_a_line_says_what_was_learned() -> None:
    found = np.array([0.312, np.nan, 0.616, 0.5])
    assert thresholds.describe(found, ("dog", "rain", "siren", "wind")) == (
        "thresholds learned for 3 of 4 classes, 0.31 to 0.62; none for rain (fewer than 5 clips have it, or all)"
    )
    names = [f"class {i}" for i in range(13)]
    assert "none for class 0, " in thresholds.describe(np.full(13, np.nan), names)
    assert "class 9 and 3 more (" in thresholds.describe(np.full(13, np.nan), names)
    assert thresholds.describe(np.full(2, 0.5), names[:2]) == "thresholds learned for 2 of 2 classes, 0.50 to 0.50"


# --- files

NAMES, MIDS = ("Dog", "Rain", "Police car (siren)"), ("/m/0bt9lr", "/m/06mb1", "/m/04qvtq")


def parse(text: str) -> dict[str, float]:
    return thresholds.parse(text, "t.yaml", NAMES, MIDS)


def test_a_file_names_classes_by_name_or_mid_and_a_star_for_the_others() -> None:
    assert parse('Dog: 0.4\n"*": 0.2') == {"Dog": 0.4, "Rain": 0.2, "Police car (siren)": 0.2}
    assert parse("{/m/06mb1: 1, Dog: 0, Police car (siren): 0.5}") == {"Dog": 0, "Rain": 1, "Police car (siren)": 0.5}
    assert parse('"*": 0.25') == dict.fromkeys(NAMES, 0.25)
    assert thresholds.parse("{a: 0.5}", "t.yaml", ("a",)) == {"a": 0.5}


def test_it_is_read_from_a_folder_or_a_bucket(tmp_path: Path, s3_bucket: str) -> None:
    for uri in (storage.to_uri(str(tmp_path / "t.yaml")), f"s3://{s3_bucket}/t.yaml"):
        storage.write_bytes(uri, b'"*": 0.25\n')
        assert thresholds.read(uri, NAMES) == dict.fromkeys(NAMES, 0.25)
    with pytest.raises(ConfigError, match=r"/missing\.yaml: no such file"):
        thresholds.read(storage.to_uri(str(tmp_path / "missing.yaml")), NAMES)


FORM = "t.yaml: should be CLASS: VALUE, a line each"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{Dog: 0.4", r"t\.yaml: not YAML: .*line 1"),
        ("Dog: 2024-13-45", r"t\.yaml: not YAML: month"),
        ("a: 1\n---\nb: 1", r"t\.yaml: not YAML: "),
        ("", FORM),
        ("0.4", FORM),
        ("[Dog, 0.4]", FORM),
        ("{Dog: 0.4, 7: 0.5}", r"t\.yaml: 7 is no text; put the class's name in quotes"),
        ("{yes: 0.4}", r"t\.yaml: True is no text; put the class's name in quotes"),
        ('{dog: 0.4, "*": 0.2}', r"t\.yaml: 'dog' is no class of the network; did you mean Dog\?"),
        ("{Thunder: 0.4}", r"t\.yaml: 'Thunder' is no class of the network; there are: Dog, Rain, Police"),
        ("{Dog: 1.01}", r"t\.yaml: Dog: 1\.01 should be a number from 0 to 1"),
        ("{Dog: -0.1}", r"t\.yaml: Dog: -0\.1 should be a number from 0 to 1"),
        ("{Dog: .nan}", r"t\.yaml: Dog: nan should be a number from 0 to 1"),
        ('{"*": high}', r"t\.yaml: \*: 'high' should be a number from 0 to 1"),
        ("{Dog: yes}", r"t\.yaml: Dog: True should be a number from 0 to 1"),
        ("Dog:", r"t\.yaml: Dog: None should be a number from 0 to 1"),
        ("Dog: 0.4\nRain: 0.1\nDog: 0.5", r"t\.yaml: Dog: given twice \(line 1, line 3\); leave one"),
        ("{Dog: 0.4, 'Dog': 0.4}", r"t\.yaml: Dog: given twice"),
        ("{'*': 0.4, '*': 0.4}", r"t\.yaml: \*: given twice"),
        ("{/m/0bt9lr: 0.4, Dog: 0.4}", r"t\.yaml: Dog and /m/0bt9lr are one class; leave one"),
        ("{Dog: 0.4}", r't\.yaml: no threshold for Rain, Police car \(siren\); add them, or "\*" for all others'),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(text)


# --- jobs/evaluate.py, without Ray

SPEC = get_front_end("logmel44k")
PAIR = Vocabulary(("high", "low"), multi_label=False)


def in_turn(stages: list[Any], items: list[Any]) -> Iterator[Any]:
    """In place of actors: in this process."""
    (stage,) = stages
    process = stage.make(stage.plan)
    return (process(item) for item in items)


@pytest.fixture
def shards(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run directory of ten clips a class in fold 1, and four in fold 2."""
    monkeypatch.setattr(evaluate, "map_on_actors", in_turn)
    for i in range(14):
        wav(noise(0.3, i), 44_100, f"in/high/{i}.wav")
        wav(noise(0.3, 50 + i).cumsum() / 20, 44_100, f"in/low/{i}.wav")
    clips = [replace(clip, fold=1 if int(Path(clip.uri).stem) < 10 else 2) for clip in extracting.list_clips(tmp_path)]
    extracting.run(tmp_path, clips, [Unit(0, 0, 28)], segment_s=1.0)
    uri = str(tmp_path / "run")
    RunDirectory(uri).bind("extract", {"units": "1, of a test", "manifest_digest": "of a test"}, {})
    RunDirectory(uri).finish({"status": "ok"})
    return uri


def save(folder: Path, manifest: str = "of a test", **training: Any) -> Checkpoint:
    """A network that was not trained, said to have been trained in this way."""
    training["manifests"] = [manifest]
    torch.manual_seed(0)
    network = models.build("sbcnn", 128, 2).eval()
    network.mean.fill_(-40)
    network.std.fill_(20)
    saved = Checkpoint(network, "sbcnn", SPEC, PAIR, 1.0, training, {"loss": 0.5})
    saved.save(storage.to_uri(str(folder / "trained" / "checkpoint")))
    return saved


def measure(folder: Path, shards: str, output: str, **flags: Any) -> dict[str, Any]:
    config = EvaluateConfig((shards,), str(folder / "trained"), str(folder / output), **flags)
    assert evaluate.run(config) == "ok"
    return json.loads((folder / output / "metrics.json").read_text())


def test_evaluation_learns_thresholds_and_writes_them_where_asked_to(
    tmp_path: Path, shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save(tmp_path, test_fold=1, clips=8, seed=0)
    description = tmp_path / "trained" / "checkpoint" / "checkpoint.json"
    before = description.read_text()
    with caplog.at_level(logging.INFO):
        measured = measure(tmp_path, shards, "first", test_fold=1)
    assert description.read_text() == before
    rows = pq.read_table(tmp_path / "first" / "predictions.parquet").to_pylist()
    assert len(rows) == 20
    learned = {}
    for c, name in enumerate(measured["classes"]):
        targets = np.array([row["labels"] == [name] for row in rows])
        probabilities = np.array([row["probabilities"][c] for row in rows])
        of_class = measured["per_class"][name]
        learned[name] = of_class["threshold"]
        counted = probabilities >= of_class["threshold"]
        precision, recall, _ = precision_recall_curve(targets, probabilities)
        best = (2 * precision * recall / (precision + recall + 1e-300)).max()
        assert of_class["f1_at_threshold"] == pytest.approx(f1_score(targets, counted)) == pytest.approx(best)
        assert of_class["precision_at_threshold"] == pytest.approx(precision_score(targets, counted))
        assert of_class["recall_at_threshold"] == pytest.approx(recall_score(targets, counted))
        assert of_class["average_precision"] is not None  # what was there before still is
    assert "thresholds learned for 2 of 2 classes, " in caplog.text
    assert measure(tmp_path, shards, "second", test_fold=1, write_thresholds=True) == measured
    assert json.loads(description.read_text()) == {**json.loads(before), "thresholds": learned}
    loaded = checkpoint.load(checkpoint.find(str(tmp_path / "trained")))
    assert loaded.thresholds == (learned["high"], learned["low"])
    assert loaded.weights_digest() == saved.weights_digest()
    assert all(record.levelno < logging.WARNING for record in caplog.records)


def test_few_clips_leave_a_checkpoint_without_a_threshold(
    tmp_path: Path, shards: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, test_fold=2, clips=20)
    with caplog.at_level(logging.INFO):
        measured = measure(tmp_path, shards, "few", test_fold=2, write_thresholds=True)
    assert measured["per_class"]["high"]["threshold"] is None
    assert checkpoint.load(checkpoint.find(str(tmp_path / "trained"))).thresholds == (None, None)
    assert "thresholds learned for 0 of 2 classes; none for high, low (fewer than 5 clips" in caplog.text


@pytest.mark.parametrize(
    ("left_out", "test_fold", "remedy"),
    [(1, None, "it left out fold 1, give"), (1, 2, "it left out fold 1, give"), (None, None, "give shards of other")],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_thresholds_are_not_learned_on_what_was_trained_on(
    tmp_path: Path, shards: str, left_out: int | None, test_fold: int | None, remedy: str, dry_run: bool
) -> None:
    save(tmp_path, test_fold=left_out, clips=8)
    with pytest.raises(ConfigError, match=f"--write-thresholds: the network was trained on these clips, .*: {remedy}"):
        measure(tmp_path, shards, "x", test_fold=test_fold, write_thresholds=True, dry_run=dry_run)
    assert not (tmp_path / "x").exists()
    assert checkpoint.load(checkpoint.find(str(tmp_path / "trained"))).thresholds is None


@pytest.mark.parametrize("test_fold", [None, 1])
def test_a_fold_of_another_manifest_is_another_whatever_its_number(
    tmp_path: Path, shards: str, test_fold: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, manifest="another", test_fold=1, clips=28)
    measure(tmp_path, shards, "x", test_fold=test_fold, write_thresholds=True)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "trained on clips of another manifest" in warning
    assert json.loads((tmp_path / "x" / "summary.json").read_text())["warning"] in warning
    assert checkpoint.load(checkpoint.find(str(tmp_path / "trained"))).thresholds is not None


def test_a_fold_without_clips_leaves_its_output_unbound(tmp_path: Path, shards: str) -> None:
    save(tmp_path, test_fold=1, clips=8)
    with pytest.raises(ConfigError, match="--test-fold 9: the shards have the folds 1, 2"):
        measure(tmp_path, shards, "x", test_fold=9)
    measure(tmp_path, shards, "x", test_fold=1)


@pytest.mark.parametrize("name", ["mn04", "mn04:weights.pt"])
def test_a_published_network_takes_no_thresholds(tmp_path: Path, name: str) -> None:
    config = EvaluateConfig((str(tmp_path / "no"),), name, str(tmp_path / "x"), write_thresholds=True)
    with pytest.raises(ConfigError, match=f"--write-thresholds: {name} is a published network"):
        evaluate.run(config)


def test_a_prediction_says_what_part_of_its_file_was_heard(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "map_on_actors", in_turn)
    wav(noise(3.0, 0), 44_100, "in/high/0.wav")
    (clip,) = extracting.list_clips(tmp_path)
    parts = [replace(clip, clip_id="a", start_s=0.5, end_s=1.1), replace(clip, clip_id="b", start_s=1.1, end_s=2.9)]
    extracting.run(tmp_path, parts, [Unit(0, 0, 2)], segment_s=1.0)
    directory = RunDirectory(str(tmp_path / "run"))
    directory.bind("extract", {"units": "1, of a test", "manifest_digest": "of a test"}, {})
    directory.finish({"status": "ok"})
    save(tmp_path, seed=0)
    measure(tmp_path, str(tmp_path / "run"), "measured")
    rows = pq.read_table(tmp_path / "measured" / "predictions.parquet").to_pylist()
    assert [row["start_s"] for row in rows] == [0.5, 1.1]
    assert [row["end_s"] for row in rows] == pytest.approx([1.1, 2.9], abs=2 * 1024 / 44_100)


def test_a_label_that_the_network_lacks_is_told_before_it_predicts(
    tmp_path: Path, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, seed=0)
    found = evaluate.shards.read_columns((shards,), ["labels", "fold", "copy_index"])
    stranger = pa.table({"labels": [["wind"]], "fold": [3], "copy_index": [0]}, schema=found.schema)
    monkeypatch.setattr(evaluate.shards, "read_columns", lambda *_: pa.concat_tables([found, stranger]))
    monkeypatch.delattr(evaluate, "map_on_actors")
    with pytest.raises(CheckpointMismatchError, match="'wind' is not in the vocabulary"):
        measure(tmp_path, shards, "x")
    assert not (tmp_path / "x").exists()
    evaluate.run(EvaluateConfig((shards,), str(tmp_path / "trained"), str(tmp_path / "x"), test_fold=1, dry_run=True))
