"""Checkpoints: all that describes a network, and files that are not whole."""

import json
from pathlib import Path

import pytest
import torch

from audioclf import checkpoint, models, storage
from audioclf.audio.frontend import get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.errors import ConfigError, SchemaError
from audioclf.labels import Vocabulary

SPEC = get_front_end("logmel44k")
TRIO = Vocabulary(("a", "b", "c"), multi_label=False)


def save(folder: Path, **changes: object) -> str:
    """A checkpoint whose description was changed afterwards."""
    uri = storage.to_uri(str(folder / "checkpoint"))
    network = models.build("sbcnn", 128, 3).eval()
    Checkpoint(network, "sbcnn", SPEC, Vocabulary(TRIO.names, True, ("x", "y", "z")), 1.5, {"a": 1}, {}).save(uri)
    path = folder / "checkpoint" / "checkpoint.json"
    description = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in description.items() if value is not None}))
    return uri


def test_all_that_describes_a_network_comes_back(tmp_path: Path, s3_bucket: str) -> None:
    network = models.build("sbcnn", 128, 3).eval()
    vocabulary = Vocabulary(TRIO.names, True, ("x", "y", "z"))
    saved = Checkpoint(network, "sbcnn", SPEC, vocabulary, 1.5, {"epochs": 3}, {"loss": 0.25})
    for uri in (storage.to_uri(str(tmp_path / "c")), f"s3://{s3_bucket}/run/checkpoint"):
        saved.save(uri)
        loaded = checkpoint.load(uri)
        assert loaded.vocabulary == vocabulary
        assert (loaded.segment_s, loaded.training, loaded.metrics) == (1.5, {"epochs": 3}, {"loss": 0.25})
        assert loaded.weights_digest() == saved.weights_digest()
        assert not loaded.network.training
    assert checkpoint.find(f"s3://{s3_bucket}/run") == f"s3://{s3_bucket}/run/checkpoint"


def test_thresholds_come_back_in_the_order_of_the_classes(tmp_path: Path, s3_bucket: str) -> None:
    network = models.build("sbcnn", 128, 3).eval()
    names = Vocabulary(("wind", "rain", "dog"), multi_label=True)  # not in the order of the alphabet, as JSON keys are
    learned = (0.1 + 0.2, None, 1.0)
    saved = Checkpoint(network, "sbcnn", SPEC, names, 1.5, {}, {}, learned)
    without = Checkpoint(network, "sbcnn", SPEC, names, 1.5, {"a": 1}, {"loss": 0.25})
    assert saved.weights_digest() == without.weights_digest()
    for uri in (storage.to_uri(str(tmp_path / "c")), f"s3://{s3_bucket}/c"):
        saved.save(uri)
        assert checkpoint.load(uri).thresholds == learned
        without.save(uri)
        assert checkpoint.load(uri).thresholds is None
        weights = storage.read_bytes(f"{uri}/model.safetensors")
        checkpoint.write_thresholds(uri, learned)
        loaded = checkpoint.load(uri)
        assert (loaded.thresholds, loaded.vocabulary, loaded.training) == (learned, names, {"a": 1})
        assert storage.read_bytes(f"{uri}/model.safetensors") == weights
        description = json.loads(storage.read_bytes(f"{uri}/checkpoint.json"))
        assert description["thresholds"] == {"wind": 0.1 + 0.2, "rain": None, "dog": 1.0}
        checkpoint.write_thresholds(uri, (None, 0.5, 0.5))  # a second time, in place of the first
        assert checkpoint.load(uri).thresholds == (None, 0.5, 0.5)
    with pytest.raises(SchemaError, match="no checkpoint"):
        checkpoint.write_thresholds(storage.to_uri(str(tmp_path / "nothing")), learned)


def test_a_checkpoint_from_before_thresholds_has_none(tmp_path: Path) -> None:
    uri = save(tmp_path, thresholds=None)
    assert "thresholds" not in json.loads(storage.read_bytes(f"{uri}/checkpoint.json"))
    assert checkpoint.load(uri).thresholds is None


def test_one_changed_weight_changes_the_digest() -> None:
    network = models.build("sbcnn", 128, 3).eval()
    one = Checkpoint(network, "sbcnn", SPEC, TRIO, 1.0, {}, {})
    before = one.weights_digest()
    with torch.no_grad():
        network.get_parameter("dense2.bias")[0] += 1
    assert one.weights_digest() != before


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "2"},
        {"vocabulary": {"names": ["a", "b"], "multi_label": True, "mids": None}},  # weights are of three
        {"vocabulary": None},  # left out
        {"front_end": {**SPEC.to_dict(), "field_of_a_later_version": 80}},
        {"front_end": {**SPEC.to_dict(), "n_mels": -1}},
        {"model": 3},
        {"segment_s": "long"},
    ],
    ids=["version", "other classes", "no vocabulary", "unknown front-end field", "bands", "network", "seconds"],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(SchemaError, match="checkpoint"):
        checkpoint.load(save(tmp_path, **changes))


def test_a_description_that_is_none_is_refused(tmp_path: Path) -> None:
    uri = save(tmp_path)
    storage.write_bytes(f"{uri}/checkpoint.json", b"[1, 2]")
    with pytest.raises(SchemaError, match="no checkpoint of version"):
        checkpoint.load(uri)


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ({"a": 0.5, "b": 0.5}, "not one for each class"),
        ({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}, "not one for each class"),
        ({"a": 0.5, "b": 0.5, "dog": 0.5}, "not one for each class"),
        ([0.5, 0.5, 0.5], "not one for each class"),
        ({"a": 50, "b": 0.5, "c": 0.5}, "a: 50 is neither null nor a number"),
        ({"a": "0.5", "b": 0.5, "c": 0.5}, "a: '0.5' is neither null nor a number"),
        ({"a": True, "b": 0.5, "c": 0.5}, "a: True is neither null nor a number"),
        ({"a": float("nan"), "b": 0.5, "c": 0.5}, "a: nan is neither null nor a number"),
    ],
)
def test_damaged_thresholds_are_refused(tmp_path: Path, damaged: object, says: str) -> None:
    with pytest.raises(SchemaError, match=rf"checkpoint\.json: not a checkpoint's description: thresholds: {says}"):
        checkpoint.load(save(tmp_path, thresholds=damaged))


def test_a_training_that_has_not_ended_is_no_checkpoint_yet(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"job": "train", "binding": {}, "flags": {}}')
    with pytest.raises(ConfigError, match="its training has not ended; give the command that began it again"):
        checkpoint.find(str(tmp_path))
