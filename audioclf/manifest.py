"""The manifest: a Parquet file with one row a clip."""

import functools
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from audioclf import schema, storage
from audioclf.errors import ChangedClipError, ClipError, ConfigError, StorageError

ROW_GROUP_ROWS = 4096
"""A worker reads the row groups its unit lies in: small ones cost it little, many make a long footer."""

BATCH_ROWS = 65_536

READ_BYTES = 8 << 20
"""Of a request, where a manifest is read from its beginning to its end: the columns of many row groups."""

DIGEST_COLUMNS = ["clip_id", "size_bytes", "labels", "fold", "source_id"]
"""Equal for the same collection in a folder and in a bucket: uri, etag and times are left out."""


@dataclass(frozen=True)
class Clip:
    """A row of the manifest."""

    clip_id: str
    uri: str
    size_bytes: int
    etag: str
    labels: tuple[str, ...] = ()
    fold: int | None = None
    source_id: str = ""
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    recorded_at: datetime | None = None
    start_s: float | None = None
    end_s: float | None = None
    path: str = ""
    """Percent-encoded, below the input; known from a listing, not kept in the file."""
    modified_s: float | None = None
    """Seconds since 1970; known from a listing, not kept in the file."""

    @property
    def is_part(self) -> bool:
        """Of a file that may have others."""
        return self.start_s is not None or self.end_s is not None


def clip_id(path: str, start_s: float | None = None, end_s: float | None = None) -> str:
    """A stable id from the path below the input: the same in a folder and in a bucket."""
    part = "" if start_s is None and end_s is None else f"#{start_s}-{end_s}"
    return xxhash.xxh3_128_hexdigest((path + part).encode())


def check(clips: pa.Table) -> None:
    """What must hold before a manifest is written.

    Args:
        clips: rows of a manifest.

    Raises:
        ConfigError: the same clip twice, or clips of one source in two folds.
    """
    again = _repeated(clips["clip_id"])
    if len(again):
        uri = storage.display(_row(clips, int(again[0]))["uri"])
        raise ConfigError(
            f"{uri}: named twice: leave a row out of --metadata, or say by start_s and end_s which part each is"
        )
    if clips["fold"].null_count == len(clips):
        return
    first = first_rows(clips["source_id"])
    fold = clips["fold"].cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    crossing = np.flatnonzero(fold != fold[first])
    if len(crossing):
        here, there = (_row(clips, int(row)) for row in (crossing[0], first[crossing[0]]))
        raise ConfigError(
            f"{storage.display(here['uri'])}: is in fold {here['fold']}, and another clip of its source "
            f"{here['source_id']!r} in fold {there['fold']}: sources must not cross folds; parts of one file are of "
            "one source, unless a source_id says otherwise"
        )


def require_each_once(clip_ids: pa.ChunkedArray, name: str) -> None:
    """Refuse a manifest, by whomever it was put together, that names a clip twice.

    Args:
        clip_ids: of its rows.
        name: of the manifest, for messages.

    Raises:
        ConfigError: there is such a clip.
    """
    again = _repeated(clip_ids)
    if len(again):
        raise ConfigError(
            f"{name}: {len(again):,} of its rows name a clip that another names too, such as row {again[0]:,} "
            f"(clip_id {clip_ids[int(again[0])]}); make it with jobs/manifest.py from a folder that is above all clips"
        )


def _repeated(clip_ids: pa.ChunkedArray) -> np.ndarray:
    """The rows whose clip an earlier row names."""
    # Hashes first: of five million ids they take 40 MB, where Arrow's tables take 1.4 GB.
    hashes = [np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk)) for chunk in clip_ids.chunks]
    in_order = np.sort(np.concatenate([np.empty(0, np.int64), *hashes]))
    if (in_order[1:] != in_order[:-1]).all():
        return np.empty(0, np.int64)
    return np.flatnonzero(first_rows(clip_ids) != np.arange(len(clip_ids)))


def _row(clips: pa.Table, row: int) -> dict[str, Any]:
    return clips.slice(row, 1).to_pylist()[0]


def first_rows(values: pa.ChunkedArray) -> np.ndarray:
    """[N] for each row the first one that has the same value; by sorting, which takes less memory than hashing."""
    order = pc.call_function("sort_indices", [values])  # stable: equal values stay in their rows' order
    in_order = values.take(order)
    differs = pc.call_function("not_equal", [in_order[1:], in_order[:-1]]).to_numpy()
    del in_order
    rows = order.to_numpy().astype(np.int64)
    begins = np.concatenate([np.ones(min(1, len(rows)), bool), differs.astype(bool)])
    first = np.empty_like(rows)
    first[rows] = rows[begins][np.cumsum(begins) - 1]
    return first


def with_column(clips: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """The same rows with other values in one column."""
    at = schema.MANIFEST.get_field_index(name)
    return clips.set_column(at, schema.MANIFEST.field(at), values.cast(schema.MANIFEST.field(at).type))


def to_table(clips: Iterable[Clip]) -> pa.Table:
    """The manifest's rows; a clip without a source is a source of its own, a part of a file that file's."""
    clips = list(clips)
    columns = {
        field.name: _array([getattr(clip, field.name) for clip in clips], field.type) for field in schema.MANIFEST
    }
    if any(clip.source_id or clip.is_part for clip in clips):
        columns["source_id"] = pa.array([clip.source_id or _own_source(clip) for clip in clips])
    else:
        columns["source_id"] = columns["clip_id"]
    return pa.table(columns, schema=schema.MANIFEST)


def _own_source(clip: Clip) -> str:
    return clip_id(clip.path or clip.uri) if clip.is_part else clip.clip_id


def of_columns(columns: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.Table:
    """The manifest's rows from the columns that are known; no labels, and each clip a source of its own."""
    n = len(columns["clip_id"])
    labels = pa.ListArray.from_arrays(pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.string()))
    filled = {"labels": labels, "source_id": columns["clip_id"], **columns}
    missing = {field.name: pa.nulls(n, field.type) for field in schema.MANIFEST if field.name not in filled}
    return pa.table({**filled, **missing}, schema=schema.MANIFEST)


def _array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    """An array; many of nothing but nulls share their memory."""
    if len(values) <= BATCH_ROWS and all(value is None for value in values):
        return _nulls(data_type).slice(0, len(values))
    return pa.array(values, data_type)


@functools.cache
def _nulls(data_type: pa.DataType) -> pa.Array:
    return pa.nulls(BATCH_ROWS, data_type)


def write(table: pa.Table, uri: str) -> None:
    """Write a manifest file."""
    with storage.create(uri) as file:
        pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd")


@dataclass(frozen=True)
class ManifestFile:
    """An open manifest."""

    uri: str
    digest: str
    """Of the table's content but for what depends on where the clips lie."""
    table: pa.Table
    etag: str | None
    """Of the file that was read."""


def read(uri: str, columns: list[str] | None = None) -> ManifestFile:
    """Read a manifest, or some of its columns.

    Raises:
        ConfigError: no such file, not a manifest, or one of another version.
    """
    try:
        with storage.open_ranged(uri, block_bytes=READ_BYTES) as opened:
            file = pq.ParquetFile(opened)
            _check_schema(uri, file.schema_arrow)
            etag = storage.etag_of(opened)  # before: of a file rewritten meanwhile, workers read none
            return ManifestFile(uri, *_read(file, columns or schema.MANIFEST.names), etag)
    except ClipError as error:
        raise ConfigError(f"{storage.display(uri)}: {error.message}; make it with jobs/manifest.py") from error
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{storage.display(uri)}: not a manifest, which jobs/manifest.py makes: {error}") from error
    except OSError as error:  # how pyarrow reports damaged pages
        reason = " ".join(str(error).split())
        raise ConfigError(f"{storage.display(uri)}: damaged: {reason}; make it anew with jobs/manifest.py") from error


def _read(file: pq.ParquetFile, columns: list[str]) -> tuple[str, pa.Table]:
    """The digest, of columns that are let go of batch by batch, and the columns asked for."""
    hasher = xxhash.xxh3_128()
    batches = []
    # One thread: it reads the file from its beginning to its end.
    for batch in file.iter_batches(BATCH_ROWS, columns=sorted({*columns, *DIGEST_COLUMNS}), use_threads=False):
        hasher.update(_stream(batch.select(DIGEST_COLUMNS)))
        batches.append(batch.select(columns))
    fields = [schema.MANIFEST.field(name) for name in columns]
    table = pa.Table.from_batches(batches, pa.schema(fields, schema.MANIFEST.metadata))
    return hasher.hexdigest(), table


def _stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


def _check_schema(uri: str, found: pa.Schema) -> None:
    version = (found.metadata or {}).get(schema.META_VERSION, b"none").decode()
    if version != schema.SCHEMA_VERSION or found.names != schema.MANIFEST.names:
        raise ConfigError(
            f"{storage.display(uri)}: not a manifest of version {schema.SCHEMA_VERSION} (it has version {version} and "
            f"columns {', '.join(found.names)}); make it anew with jobs/manifest.py"
        )


def clips_of(table: pa.Table) -> list[Clip]:
    """The rows as clips."""
    return [Clip(**{**row, "labels": tuple(row["labels"])}) for row in table.to_pylist()]


class SliceReader:
    """Reads rows of a manifest in a worker: the footer once, then only the row groups a slice lies in.

    Args:
        uri: of the manifest.
        etag: of the file that the job was planned from; another one is refused.
    """

    def __init__(self, uri: str, etag: str | None = None):
        self._uri, self._etag = uri, etag
        self._cached: tuple[tuple[int, ...], pa.Table] | None = None

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows [start, stop) as dictionaries.

        Raises:
            StorageError: the manifest is another file by now, or can't be read here.
        """
        try:
            return self._rows(start, stop)
        except ChangedClipError as error:
            raise StorageError(
                f"{storage.display(self._uri)}: no longer the manifest that this job was planned from "
                f"({error.message}); run the same command again"
            ) from error
        except ClipError as error:
            raise StorageError(
                f"{storage.display(self._uri)}: the manifest can't be read on {socket.gethostname()}: {error.message}; "
                "put it where all nodes see it"
            ) from error

    @functools.cached_property
    def _file(self) -> pq.ParquetFile:
        return pq.ParquetFile(storage.open_ranged(self._uri, self._etag))

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        """Where each row group ends."""
        return np.cumsum([self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)])

    def _rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        groups = tuple(range(first, last + 1))
        if self._cached is None or self._cached[0] != groups:
            self._cached = groups, self._file.read_row_groups(list(groups))
        offset = int(self._ends[first - 1]) if first else 0
        return self._cached[1].slice(start - offset, stop - start).to_pylist()

    def close(self) -> None:
        """Close the file, if it was opened."""
        if "_file" in vars(self):
            self._file.close(force=True)
