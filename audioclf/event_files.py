"""The history of a training as TensorBoard reads it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from audioclf import storage

NAME = "events.out.tfevents.training"


def write(folder_uri: str, history: Sequence[Mapping[str, float]]) -> None:
    """Write the event file of a training, anew each time, so that a resumed one shows no epoch twice.

    Args:
        folder_uri: of the training.
        history: the figures of each epoch, by name; `epoch` counts from 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for figures in history:
                for name, value in figures.items():
                    if name != "epoch":
                        writer.add_scalar(name, value, int(figures["epoch"]))
        (file,) = Path(folder).iterdir()
        storage.write_bytes(storage.join(folder_uri, NAME), file.read_bytes())
