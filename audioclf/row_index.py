"""Everything of shards' rows but their pictures, in little memory, and where each picture lies.

For sets of millions of rows: about 30 bytes a row, and what is said of its clip once for each clip. Plain NumPy and
Arrow.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audioclf import parquet_files, shards, storage
from audioclf.audio.pcm import AnyFrontEnd
from audioclf.errors import ConfigError, SchemaError
from audioclf.shards import Examples, Form

CLIP_COLUMNS = "clip_id", "labels", "fold", "source_id"
"""The same for all rows of a clip in one file."""
ROW_COLUMNS = "segment_index", "copy_index", "transform_set", "valid_frames"

THREADS = 8
"""Files whose small columns are read at once: on S3 that is waiting for the most part."""
BLOCK_BYTES = 8 << 20
"""Read from a file at a time, where pictures are wanted."""
BATCH_BYTES = 4 << 20
"""Pictures decoded at a time."""


class Column(Sequence[Any]):
    """A column of many rows and fewer values: row i holds values[codes[i]].

    Args:
        codes: [N] int32.
        values: may hold the same value more than once.
    """

    def __init__(self, codes: np.ndarray, values: pa.Array):
        self.codes, self.values = codes, values

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return self.arrow(np.arange(len(self))[row]).to_pylist()
        return self.values[int(self.codes[row])].as_py()

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.to_pylist().__getitem__, self.codes)

    def arrow(self, rows: np.ndarray) -> pa.Array:
        """The values of some rows."""
        return self.values.take(pa.array(self.codes[rows]))


class Piece(NamedTuple):
    """A row group of a shard: what is read at a time."""

    uri: str
    row_group: int
    n_rows: int


@dataclass(frozen=True, eq=False)
class RowIndex:
    """The rows of shards, ordered by clip, segment and copy.

    Attributes:
        form: front end and shape of the pictures.
        columns: clip_id, labels, fold, source_id, segment_index, copy_index and transform_set of each row. The uri, of
            which training has no use, is left out.
        valid_frames: [N] int32; frames beyond are padding.
        pieces: of all files, by file.
        piece, position: [N] int32: which of the pieces holds the row, and where in it.
    """

    form: Form
    columns: dict[str, Column]
    valid_frames: np.ndarray
    pieces: tuple[Piece, ...]
    piece: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.piece)

    @property
    def front_end(self) -> AnyFrontEnd:
        return self.form.front_end

    @property
    def shape(self) -> tuple[int, int]:
        return self.form.shape

    @property
    def picture_bytes(self) -> int:
        """Of one picture."""
        return self.shape[0] * self.shape[1] * np.dtype(self.front_end.dtype).itemsize

    @property
    def reading_bytes(self) -> int:
        """Memory that `read` takes beside what it returns, at most: the largest row group, packed and unpacked."""
        largest = max(piece.n_rows for piece in self.pieces)
        return 2 * largest * self.picture_bytes + 3 * (BLOCK_BYTES + BATCH_BYTES)

    def take(self, rows: np.ndarray) -> "RowIndex":
        """Some of the rows, by index."""
        codes = {id(column.codes): column.codes for column in self.columns.values()}  # of a clip's columns the same
        taken = {key: values[rows] for key, values in codes.items()}
        return replace(
            self,
            columns={name: Column(taken[id(column.codes)], column.values) for name, column in self.columns.items()},
            valid_frames=self.valid_frames[rows],
            piece=self.piece[rows],
            position=self.position[rows],
        )

    def read(self, rows: np.ndarray, stop: threading.Event | None = None) -> np.ndarray:
        """The pictures of some rows; each row group among them is read once.

        Args:
            rows: [B] indices, in any order.
            stop: once it is set, reading ends with what there is.

        Returns:
            [B, n_features, n_frames] float16; of waveforms [B, 1, n_samples] int16.

        Raises:
            SchemaError: a damaged shard, or one that is not the one of which the index was made.
            StorageError: the store can't be reached or refuses.
            MissingClipError: a shard was removed.
        """
        pictures = np.empty((len(rows), *self.shape), self.front_end.dtype)
        order = np.lexsort((self.position[rows], self.piece[rows]))
        pieces = self.piece[rows[order]]
        stopped = stop.is_set if stop else lambda: False
        for uri, some in groupby(np.unique(pieces), lambda piece: self.pieces[piece].uri):
            if stopped():
                break
            with parquet_files.opened(uri, BLOCK_BYTES) as file:
                for piece in takewhile(lambda _: not stopped(), some):
                    at = order[np.searchsorted(pieces, piece) : np.searchsorted(pieces, piece, side="right")]
                    _fill(pictures, at, self.position[rows[at]], _decoded(file, self.pieces[piece], self.form), stopped)
        return pictures

    def load(self) -> Examples:
        """All rows with their pictures, in memory. Raises what `read` raises."""
        columns = {name: list(column) for name, column in self.columns.items()}
        return Examples(self.front_end, self.read(np.arange(len(self))), self.valid_frames, columns)


def read_index(
    run_uris: Sequence[str], *, copies: bool, fold: int | None = None, exclude_fold: int | None = None
) -> RowIndex:
    """The index of one or several extractions; reads no pictures.

    Args:
        run_uris, copies, fold, exclude_fold: as those of `shards.load`, which would give the same rows in this order.

    Raises:
        ConfigError: no shards, or no such rows in them.
        SchemaError: shards of different front ends or shapes, or damaged ones.
    """
    uris = [uri for run in run_uris for uri in shards.committed_files(storage.to_uri(run))]
    wanted = shards.wanted(copies, fold, exclude_fold)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="index") as pool:
        parts = list(pool.map(partial(_read_part, wanted=wanted), uris))
    for part in parts:
        parts[0].form.require(part.form, part.uri)
    if not any(len(part.rows) for part in parts):
        raise ConfigError(f"the shards hold no rows{shards.in_words(fold, exclude_fold)}")
    return _together(parts)


def group_numbers(*columns: Sequence[Any]) -> np.ndarray:
    """[N] int64: which combination of the columns' values a row has, numbered as they first appear."""
    numbers = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes = _codes(column)
        numbers = _by_first_appearance(numbers * (int(codes.max(initial=0)) + 1) + codes)
    return numbers


@dataclass(frozen=True, eq=False)
class _Part:
    """The index of one file; `clip` and `piece` count from its first."""

    uri: str
    form: Form
    pieces: list[Piece]
    clips: pa.Table
    rows: pa.Table


def _read_part(uri: str, wanted: pc.Expression) -> _Part:
    with parquet_files.opened(uri) as file:
        form = Form.of(file.schema_arrow, uri)
        groups = file.metadata
        pieces = [Piece(uri, i, groups.row_group(i).num_rows) for i in range(groups.num_row_groups)]
        table = file.read([*CLIP_COLUMNS, *ROW_COLUMNS]).replace_schema_metadata()
    n_rows = [piece.n_rows for piece in pieces]
    positions = [np.arange(n, dtype=np.int32) for n in n_rows]
    table = table.append_column("piece", pa.array(np.repeat(np.arange(len(pieces), dtype=np.int32), n_rows)))
    table = table.append_column("position", pa.array(np.concatenate([np.empty(0, np.int32), *positions])))
    table = table.filter(wanted).combine_chunks()
    # The rows of a clip say the same of it: it is kept once.
    clip = _codes(table["clip_id"])
    rows = table.select([*ROW_COLUMNS, "piece", "position"]).append_column("clip", pa.array(clip))
    sets = rows["transform_set"].dictionary_encode()
    rows = rows.set_column(rows.schema.get_field_index("transform_set"), "transform_set", sets)
    return _Part(uri, form, pieces, table.select(CLIP_COLUMNS).take(np.unique(clip, return_index=True)[1]), rows)


def _together(parts: list[_Part]) -> RowIndex:
    clips = pa.concat_tables(part.clips for part in parts).combine_chunks()
    rows = pa.concat_tables(part.rows for part in parts).unify_dictionaries().combine_chunks()
    n_rows = [len(part.rows) for part in parts]

    def from_first(name: str, counts: list[int]) -> np.ndarray:
        """A column that counts within its file, as one that counts from the first of all files."""
        before = np.cumsum([0, *counts[:-1]])
        return (rows[name].to_numpy() + np.repeat(before, n_rows)).astype(np.int32)

    clip = from_first("clip", [len(part.clips) for part in parts])
    piece = from_first("piece", [len(part.pieces) for part in parts])
    rank = pc.call_function("rank", [_one(clips["clip_id"])], pc.RankOptions(tiebreaker="dense")).to_numpy()
    order = np.lexsort((rows["copy_index"].to_numpy(), rows["segment_index"].to_numpy(), rank[clip]))
    clip = clip[order]
    columns = {name: Column(clip, _one(clips[name])) for name in CLIP_COLUMNS}
    for name in ("segment_index", "copy_index"):
        numbers = rows[name].to_numpy()[order]
        columns[name] = Column(numbers, pa.array(np.arange(numbers.max() + 1, dtype=np.int32)))
    sets = _one(rows["transform_set"])
    columns["transform_set"] = Column(sets.indices.to_numpy()[order], sets.dictionary)
    return RowIndex(
        parts[0].form,
        columns,
        rows["valid_frames"].to_numpy()[order],
        tuple(piece for part in parts for piece in part.pieces),
        piece[order],
        rows["position"].to_numpy()[order],
    )


def _decoded(file: Any, piece: Piece, form: Form) -> Iterator[tuple[np.ndarray, int]]:
    """The pictures of a row group, some at a time, and where in it they begin."""
    groups, spec = file.metadata, form.front_end
    if piece.row_group >= groups.num_row_groups or groups.row_group(piece.row_group).num_rows != piece.n_rows:
        raise SchemaError(f"{storage.display(piece.uri)}: the shard was replaced while it was in use; start again")
    step = max(1, BATCH_BYTES // (form.shape[0] * form.shape[1] * np.dtype(spec.dtype).itemsize))
    first = 0
    for batch in file.iter_batches(step, row_groups=[piece.row_group], columns=[spec.column], use_threads=False):
        yield shards.to_pictures(pa.chunked_array([batch.column(0)]), form.shape, spec.dtype), first
        first += len(batch)


def _fill(
    pictures: np.ndarray,
    at: np.ndarray,
    positions: np.ndarray,
    decoded: Iterator[tuple[np.ndarray, int]],
    stopped: Callable[[], bool],
) -> None:
    """Set pictures[at] to those at `positions`, which rise, of a row group."""
    done = 0
    for some, first in decoded:
        n = int(np.searchsorted(positions[done:], first + len(some)))
        pictures[at[done : done + n]] = some[positions[done : done + n] - first]
        done += n
        if done == len(at) or stopped():
            return


def _codes(column: Any) -> np.ndarray:
    """[N] int32, the same for equal values."""
    if isinstance(column, Column):
        return _codes(column.values)[column.codes]
    values = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)
    return _one(values.dictionary_encode("encode")).indices.to_numpy()


def _one(column: pa.Array | pa.ChunkedArray) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _by_first_appearance(keys: np.ndarray) -> np.ndarray:
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse]
