"""The manifest: a Parquet file with one row a clip."""

import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from audioclf import schema, storage
from audioclf.errors import ClipError, ConfigError, SchemaError

ROW_GROUP_ROWS = 4096
"""A worker reads the row groups its unit lies in: small ones cost it little, many make a long footer."""


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


def clip_id(path: str, start_s: float | None = None, end_s: float | None = None) -> str:
    """A stable id from the path below the input: the same in a folder and in a bucket."""
    part = "" if start_s is None and end_s is None else f"#{start_s}-{end_s}"
    return xxhash.xxh3_128_hexdigest((path + part).encode())


def check(clips: list[Clip]) -> None:
    """What must hold before a manifest is written.

    Raises:
        ConfigError: the same clip twice, or clips of one source in two folds.
    """
    seen: set[str] = set()
    fold_of: dict[str, int | None] = {}
    for clip in clips:
        if clip.clip_id in seen:
            raise ConfigError(f"{storage.display(clip.uri)}: named twice")
        seen.add(clip.clip_id)
        if clip.source_id and fold_of.setdefault(clip.source_id, clip.fold) != clip.fold:
            raise ConfigError(
                f"{storage.display(clip.uri)}: is in fold {clip.fold}, and another clip of its source "
                f"{clip.source_id!r} in fold {fold_of[clip.source_id]}: sources must not cross folds"
            )


def to_table(clips: list[Clip]) -> pa.Table:
    """The manifest's rows; a clip without a source is a source of its own."""
    columns: dict[str, list[Any]] = {name: [] for name in schema.MANIFEST.names}
    for clip in clips:
        for name, values in columns.items():
            values.append(getattr(clip, name))
        columns["source_id"][-1] = clip.source_id or clip.clip_id
    return pa.table(columns, schema=schema.MANIFEST)


def write(table: pa.Table, uri: str) -> None:
    """Write a manifest file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=ROW_GROUP_ROWS, compression="zstd")
    storage.write_bytes(uri, buffer.getvalue())


@dataclass(frozen=True)
class ManifestFile:
    """An open manifest."""

    uri: str
    digest: str
    """Of the table's content but for what depends on where the clips lie."""
    table: pa.Table


def read(uri: str, columns: list[str] | None = None) -> ManifestFile:
    """Read a manifest, or some of its columns.

    Raises:
        ConfigError: no such file.
        SchemaError: not a manifest, or one of another version.
    """
    try:
        data = storage.read_bytes(uri)
        file = pq.ParquetFile(pa.BufferReader(data))
    except ClipError as error:
        raise ConfigError(f"{storage.display(uri)}: {error.message}; make it with jobs/manifest.py") from error
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{storage.display(uri)}: not a Parquet file: {error}") from error
    _check_schema(uri, file.schema_arrow)
    return ManifestFile(uri, _digest(file), file.read(columns))


def _check_schema(uri: str, found: pa.Schema) -> None:
    version = (found.metadata or {}).get(schema.META_VERSION, b"none").decode()
    if version != schema.SCHEMA_VERSION or found.names != schema.MANIFEST.names:
        raise SchemaError(
            f"{storage.display(uri)}: not a manifest of version {schema.SCHEMA_VERSION} (it has version {version} and "
            f"columns {', '.join(found.names)}); make it anew with jobs/manifest.py"
        )


def _digest(file: pq.ParquetFile) -> str:
    """Equal for the same collection in a folder and in a bucket: uri, etag and times are left out."""
    hasher = xxhash.xxh3_128()
    for batch in file.iter_batches(batch_size=65_536, columns=["clip_id", "size_bytes", "labels", "fold", "source_id"]):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as stream:
            stream.write_batch(batch)
        hasher.update(sink.getvalue())
    return hasher.hexdigest()


def clips_of(table: pa.Table) -> list[Clip]:
    """The rows as clips."""
    return [Clip(**{**row, "labels": tuple(row["labels"])}) for row in table.to_pylist()]


class SliceReader:
    """Reads rows of a manifest in a worker: the footer once, then only the row groups a slice lies in."""

    def __init__(self, uri: str):
        self._file = pq.ParquetFile(storage.open_ranged(uri))
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._ends = np.cumsum(sizes)
        self._cached: tuple[tuple[int, ...], pa.Table] | None = None

    def rows(self, start: int, stop: int) -> list[dict[str, Any]]:
        """Rows [start, stop) as dictionaries."""
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, stop - 1, side="right"))
        groups = tuple(range(first, last + 1))
        if self._cached is None or self._cached[0] != groups:
            self._cached = groups, self._file.read_row_groups(list(groups))
        offset = int(self._ends[first - 1]) if first else 0
        return self._cached[1].slice(start - offset, stop - start).to_pylist()

    def close(self) -> None:
        """Close the file."""
        self._file.close(force=True)
