"""Whether the rows of a training fit into memory. Plain Python."""

from dataclasses import dataclass

SHARE = 0.5
"""Of the memory of a training worker: for training rows; the rest is for the network and what it computes."""


@dataclass(frozen=True)
class Choice:
    """Where a training's rows are kept.

    Attributes:
        in_memory: all at once; or else streamed from the shards.
        words: what was chosen, and why: a line for the log.
    """

    in_memory: bool
    words: str


def choose(n_rows: int, shape: tuple[int, int], memory_bytes: int) -> Choice:
    """Keep rows in memory if they fit. All workers of a training have to choose alike: with the same memory_bytes.

    Args:
        n_rows: to train on, copies included.
        shape: [M, T] of a picture.
        memory_bytes: that rows may take in each worker: by default SHARE of what `machine.available` gives it.
    """
    in_memory = fits(n_rows, shape, memory_bytes)
    size = f"{n_rows:,} training rows of {shape[0]} × {shape[1]} take {_gb(picture_bytes(n_rows, shape))}"
    where = "held in memory" if in_memory else "streamed from the shards"
    return Choice(in_memory, f"{size} and may take {_gb(memory_bytes)}: {where}")


def fits(n_rows: int, shape: tuple[int, int], memory_bytes: int) -> bool:
    """Whether the pictures of so many rows take no more than this."""
    return picture_bytes(n_rows, shape) <= memory_bytes


def picture_bytes(n_rows: int, shape: tuple[int, int]) -> int:
    """Of pictures in float16, or of waveforms in int16."""
    return n_rows * shape[0] * shape[1] * 2


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
