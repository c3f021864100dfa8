"""What training draws from: rows in memory, or streamed from shards.

An epoch draws rows in random order (see sampling.py), asks where they lie for a `Plan`, which of them each step shows,
and goes through their pictures.

>>> index = read_index(["run/"], copies=True, exclude_fold=1)
>>> rows = MemoryRows(index.load())                          # or StreamedRows(index, memory_bytes)
>>> draw = RowDraw(rows.columns["clip_id"], rows.columns["segment_index"], weights)
>>> order = rng.permutation(len(draw))
>>> drawn = draw.draw(rng.random(len(draw)))[order]
>>> plan = rows.plan(drawn, batch_size, share, rng)
>>> for mine, pictures in zip(plan.mine, rows.batches([drawn[mine] for mine in plan.mine])): ...

Plain NumPy: no torch, no Ray.
"""

import math
import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from audioclf.audio.pcm import AnyFrontEnd
from audioclf.errors import ConfigError
from audioclf.row_index import RowIndex
from audioclf.shards import Examples

THREAD_NAME = "training-rows"


@dataclass(frozen=True)
class Share:
    """The part of every step that one of several training workers does."""

    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Plan:
    """What one worker shows in an epoch.

    Attributes:
        mine: of each step: its rows, as indices into the rows drawn. A share may be empty.
        sizes: of each step: how many rows all workers show together. The same for every worker, as is the number of
            steps.
    """

    mine: list[np.ndarray]
    sizes: list[int]


class Rows(Protocol):
    """What training draws from: N rows, ordered by clip, segment and copy."""

    @property
    def front_end(self) -> AnyFrontEnd: ...

    @property
    def shape(self) -> tuple[int, int]:
        """[M, T] of a picture."""
        ...

    @property
    def columns(self) -> Mapping[str, Sequence[Any]]:
        """[N] each: at least those of `RowIndex.columns`."""
        ...

    @property
    def valid_frames(self) -> np.ndarray:
        """[N]; frames beyond are padding."""
        ...

    def __len__(self) -> int: ...

    def labels(self, rows: np.ndarray) -> list[list[str]]:
        """Of some rows, by index."""
        ...

    def plan(self, drawn: np.ndarray, batch_size: int, share: Share, rng: np.random.Generator) -> Plan:
        """In which order an epoch shows rows: a function of the arguments alone; no picture is read.

        Args:
            drawn: [D] row indices in random order; a row may come several times.
            batch_size: of a step, over all workers.
            share: whose plan it is. Every worker has to draw the same rows, and to give a generator in the same state.
            rng: for what order there is left to choose.
        """
        ...

    def batches(self, plan: Sequence[np.ndarray]) -> Generator[np.ndarray, None, None]:
        """The pictures [B, M, T] of each batch of row indices in turn. Close it if you stop before its end.

        float16; of waveforms [B, 1, n_samples] int16.
        """
        ...

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of n rows or more, such that reading them in this order is quick: for statistics of pictures."""
        ...


class MemoryRows:
    """Rows in memory: any order of them is good, and several workers do together just what one does alone.

    Args:
        examples: with `RowIndex.columns` at least.
    """

    def __init__(self, examples: Examples):
        self._pictures = examples.pictures
        self.front_end, self.valid_frames = examples.front_end, examples.valid_frames
        self.shape: tuple[int, int] = (examples.pictures.shape[1], examples.pictures.shape[2])
        self.columns: Mapping[str, Sequence[Any]] = examples.columns

    def __len__(self) -> int:
        return len(self._pictures)

    def labels(self, rows: np.ndarray) -> list[list[str]]:
        labels = self.columns["labels"]
        return [labels[row] for row in rows]

    def plan(self, drawn: np.ndarray, batch_size: int, share: Share, rng: np.random.Generator) -> Plan:
        """`Rows.plan`: the rows in the order in which they were drawn."""
        batches = np.array_split(np.arange(len(drawn)), math.ceil(len(drawn) / batch_size))
        mine = [np.array_split(batch, share.world_size)[share.rank] for batch in batches]
        return Plan(mine, [len(batch) for batch in batches])

    def batches(self, plan: Sequence[np.ndarray]) -> Generator[np.ndarray, None, None]:
        return (self._pictures[rows] for rows in plan)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """All rows."""
        return np.arange(len(self))


class StreamedRows:
    """Rows read anew from their shards in each epoch, a window of them at a time, while the window before is in use.

    An epoch takes the row groups of all files in random order, and from each the rows drawn from it; each worker, an
    equal part of this sequence, so that it reads its part of the files alone. Its part is cut into equal windows, as
    many as memory needs, and a window's rows come in the order in which they were drawn. So if one window holds all,
    one worker's epoch is that of `MemoryRows`.

    A row group that lies across windows is read for each of them. Where row groups (128 MB as extraction writes them)
    are larger than windows, an epoch therefore reads the shards several times over; give more memory then.

    Args:
        index: of the rows.
        memory_bytes: for two windows of pictures and what reading takes beside them. The order depends on it: a
            training that is to be the same run again needs the same number.

    Raises:
        ConfigError: the memory is too little to read the shards' row groups.
    """

    def __init__(self, index: RowIndex, memory_bytes: int):
        self._index = index
        least = index.reading_bytes + 2 * index.picture_bytes
        if memory_bytes < least:
            raise ConfigError(
                f"{_mb(memory_bytes)} of memory are too little to stream these shards: it takes {_mb(least)} or more, "
                f"and is better with {_mb(4 * index.reading_bytes)}"
            )
        self.window_rows = (memory_bytes - index.reading_bytes) // (2 * index.picture_bytes)
        self.front_end, self.shape, self.valid_frames = index.front_end, index.shape, index.valid_frames
        self.columns: Mapping[str, Sequence[Any]] = index.columns

    def __len__(self) -> int:
        return len(self._index)

    def labels(self, rows: np.ndarray) -> list[list[str]]:
        return self._index.columns["labels"].arrow(rows).to_pylist()

    def plan(self, drawn: np.ndarray, batch_size: int, share: Share, rng: np.random.Generator) -> Plan:
        """`Rows.plan`: row group after row group, in the order described above."""
        turn = rng.permutation(len(self._index.pieces))
        sequence = np.argsort(turn[self._index.piece[drawn]], kind="stable")
        n_steps = math.ceil(len(drawn) / batch_size)
        sizes = _even(len(drawn), n_steps)
        counts = np.stack([_even(size, share.world_size) for size in sizes], axis=1)  # [workers, steps]
        end = counts[: share.rank + 1].sum()
        mine = sequence[end - counts[share.rank].sum() : end]
        mine = np.concatenate([np.sort(window) for window in self._windows(mine)])
        return Plan(np.split(mine, np.cumsum(counts[share.rank])[:-1]), sizes.tolist())

    def batches(self, plan: Sequence[np.ndarray]) -> Generator[np.ndarray, None, None]:
        """`Rows.batches`, read by a thread that ends with the iterator.

        Args:
            plan: of row indices, as `plan` orders them: in another order row groups are read again and again.

        Raises:
            SchemaError, StorageError, MissingClipError: see `RowIndex.read`; where the window is begun whose reading
                failed.
        """
        sequence = np.concatenate([np.empty(0, np.int64), *plan])
        stop = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix=THREAD_NAME) as pool:
            try:
                window = _WindowReader(self._index, self._windows(sequence), pool, stop)
                for rows in plan:
                    yield window.take(len(rows))
            finally:
                stop.set()

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """All rows of row groups drawn at random."""
        piece = self._index.piece
        turns = rng.permutation(len(self._index.pieces))
        held = np.bincount(piece, minlength=len(turns))[turns]
        some = turns[: int(np.searchsorted(np.cumsum(held), min(n, len(piece)))) + 1]
        rows = np.flatnonzero(np.isin(piece, some))
        return rows[np.argsort(piece[rows], kind="stable")]

    def _windows(self, sequence: np.ndarray) -> list[np.ndarray]:
        return np.array_split(sequence, max(1, math.ceil(len(sequence) / self.window_rows)))


class _WindowReader:
    """Hands out the pictures of windows one after the other; holds one window, and one that is being read."""

    def __init__(self, index: RowIndex, windows: list[np.ndarray], pool: ThreadPoolExecutor, stop: threading.Event):
        self._index, self._pool, self._stop = index, pool, stop
        self._waiting = iter(windows)
        self._pictures: np.ndarray | None = None
        self._places = np.empty(0, np.int64)
        self._at = 0
        self._read_ahead()

    def take(self, n: int) -> np.ndarray:
        """The next n pictures."""
        parts = [np.empty((0, *self._index.shape), self._index.front_end.dtype)]
        while n:
            if self._at == len(self._places):
                self._next()
            assert self._pictures is not None
            places = self._places[self._at : self._at + n]
            parts.append(self._pictures[places])
            self._at, n = self._at + len(places), n - len(places)
        return parts[-1] if len(parts) < 3 else np.concatenate(parts)

    def _next(self) -> None:
        self._pictures = None  # its memory is for the window after the next
        assert self._ahead is not None
        self._pictures, self._places = self._ahead.result()
        self._at = 0
        self._read_ahead()

    def _read_ahead(self) -> None:
        window = next(self._waiting, None)
        self._ahead = None if window is None else self._pool.submit(self._read, window)

    def _read(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pictures of a window, each once, and where in them its rows are."""
        rows, places = np.unique(window, return_inverse=True)
        return self._index.read(rows, self._stop), places


def _even(n: int, parts: int) -> np.ndarray:
    """[parts] the sizes of n things in equal parts, as np.array_split cuts them."""
    return n // parts + (np.arange(parts) < n % parts)


def _mb(n_bytes: int) -> str:
    return f"{math.ceil(n_bytes / 1e6):,} MB"
