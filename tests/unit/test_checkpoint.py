"""Checkpoints: all that describes a network, and files that are not whole."""

import json
from pathlib import Path

import pytest
import torch

from audioclf import checkpoint, models, storage
from audioclf.audio.frontend import get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.errors import SchemaError
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
    ],
    ids=["version", "other classes", "no vocabulary", "unknown front-end field"],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(SchemaError, match="checkpoint"):
        checkpoint.load(save(tmp_path, **changes))
