"""What TensorBoard reads of a training's history."""

import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.io_wrapper import IsSummaryEventsFile

from audioclf import event_files

HISTORY = [
    {"epoch": 1, "loss": 1.5, "train_accuracy": 0.25, "learning_rate": 1e-3},
    {"epoch": 2, "loss": 0.75, "train_accuracy": 0.5, "learning_rate": 5e-4},
    {"epoch": 3, "loss": 0.5, "train_accuracy": 0.875, "learning_rate": 0.0},
]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each scalar by name."""
    run = EventAccumulator(str(folder))
    run.Reload()
    return {name: [(event.step, event.value) for event in run.Scalars(name)] for name in run.Tags()["scalars"]}


def test_every_figure_of_every_epoch_is_read(tmp_path: Path) -> None:
    event_files.write(tmp_path.as_uri(), HISTORY)
    read = scalars(tmp_path)
    assert read.keys() == {"loss", "train_accuracy", "learning_rate"}
    assert read["loss"] == [(1, 1.5), (2, 0.75), (3, 0.5)]
    assert read["train_accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.875)]
    assert read["learning_rate"] == [(1, pytest.approx(1e-3)), (2, pytest.approx(5e-4)), (3, 0.0)]  # float32


def test_a_resumed_training_shows_no_epoch_twice(tmp_path: Path) -> None:
    for done in (1, 2, 3):
        event_files.write(tmp_path.as_uri(), HISTORY[:done])
    assert [path.name for path in tmp_path.iterdir()] == [event_files.NAME]
    assert scalars(tmp_path)["loss"] == [(1, 1.5), (2, 0.75), (3, 0.5)]


def test_epochs_may_differ_in_their_figures(tmp_path: Path) -> None:
    history = [
        {"epoch": 1, "loss": 2},
        {"epoch": 2, "loss": np.float64(1.0), "validation": 0.5, "note": "x", "no": None},
    ]
    event_files.write(tmp_path.as_uri(), history)
    assert scalars(tmp_path) == {"loss": [(1, 2.0), (2, 1.0)], "validation": [(2, 0.5)]}


def test_a_history_without_epochs_has_no_scalars(tmp_path: Path) -> None:
    event_files.write(tmp_path.as_uri(), [])
    assert scalars(tmp_path) == {}


def test_the_file_is_the_same_on_s3(tmp_path: Path, s3_bucket: str) -> None:
    event_files.write(f"s3://{s3_bucket}/trainings/fold-1", HISTORY)
    client = boto3.client("s3")
    key = f"trainings/fold-1/{event_files.NAME}"
    assert [found.get("Key") for found in client.list_objects_v2(Bucket=s3_bucket).get("Contents", [])] == [key]
    assert IsSummaryEventsFile(key)
    (tmp_path / event_files.NAME).write_bytes(client.get_object(Bucket=s3_bucket, Key=key)["Body"].read())
    client.close()
    assert scalars(tmp_path)["train_accuracy"] == [(1, 0.25), (2, 0.5), (3, 0.875)]


def test_extraction_does_without() -> None:
    code = "import sys, audioclf.extraction; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_needs_no_torch_and_raises_no_warning() -> None:
    code = "import sys, audioclf.event_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
