"""The history of a training as TensorBoard reads it."""

import io
import time
from collections.abc import Mapping, Sequence

from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from audioclf import storage

NAME = "events.out.tfevents.training"
"""TensorBoard reads what has `tfevents` in its name, and takes a folder as a run."""

_VERSION = "brain.Event:2"


def write(folder_uri: str, history: Sequence[Mapping[str, object]]) -> None:
    """Write the event file of a training, anew each time, so that a resumed one shows no epoch twice.

    Each number becomes a scalar at its epoch; what is no number (None, text) is left out.

    Args:
        folder_uri: of the training, local or on S3.
        history: the figures of each epoch, by name; `epoch` counts from 1.

    Raises:
        StorageError: the disk is full, or the store can't be reached or refuses.
    """
    storage.write_bytes(storage.join(folder_uri, NAME), _encode(history, time.time()))


def _encode(history: Sequence[Mapping[str, object]], now_s: float) -> bytes:
    """The file's content. All events bear the time of writing: a history does not tell when an epoch ended."""
    buffer = io.BytesIO()
    records = RecordWriter(buffer)
    records.write(Event(wall_time=now_s, file_version=_VERSION).SerializeToString())
    for figures in history:
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        step = int(numbers.pop("epoch"))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in sorted(numbers.items())]
        records.write(Event(wall_time=now_s, step=step, summary=Summary(value=values)).SerializeToString())
    return buffer.getvalue()
