"""Spectrogram shards: rows ↔ Parquet files. Reading needs neither Ray nor torch.

>>> examples = shards.load(["run/"], copies=False)      # a run directory of jobs/extract.py
>>> examples.log_mel.shape, examples.labels[0]
((400, 128, 216), ['dog_bark'])
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audioclf import parquet_files, read_ahead, rundir, schema, storage
from audioclf.audio import pcm
from audioclf.audio.pcm import AnyFrontEnd, Pcm
from audioclf.errors import ConfigError, SchemaError


def committed_files(run_uri: str) -> list[str]:
    """The data files of a run directory, by name.

    Raises:
        ConfigError: there are none.
    """
    names = sorted(name for name in storage.names_in(storage.join(run_uri, rundir.DATA)) if name.endswith(".parquet"))
    if not names:
        raise ConfigError(f"{storage.display(run_uri)}: no shards in {rundir.DATA}/; make them with jobs/extract.py")
    return [storage.join(run_uri, rundir.DATA, name) for name in names]


def read_unit(uri: str, columns: list[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Some columns of a shard, and the counts of the unit of work that made it.

    Raises:
        SchemaError: damaged, or not a shard.
    """
    with parquet_files.opened(uri) as file:
        try:
            counts = json.loads((file.metadata.metadata or {})[schema.META_UNIT])
        except (KeyError, ValueError) as error:
            raise SchemaError(f"{storage.display(uri)}: not a shard: {error}") from error
        return file.read(columns), counts


def front_end_of(metadata: dict[bytes, bytes], uri: str) -> AnyFrontEnd:
    """The front end a shard was made with.

    Raises:
        SchemaError: not a shard, or one of another version.
    """
    version = metadata.get(schema.META_VERSION, b"none").decode()
    if version != schema.SHARD_VERSION or schema.META_FRONT_END not in metadata:
        raise SchemaError(
            f"{storage.display(uri)}: not a shard of version {schema.SHARD_VERSION} (version {version}); "
            "extract anew with jobs/extract.py"
        )
    return pcm.from_dict(json.loads(metadata[schema.META_FRONT_END]))


@dataclass(frozen=True)
class Form:
    """What the shards of one set have in common: the front end, and [n_features, n_frames] of each picture."""

    front_end: AnyFrontEnd
    shape: tuple[int, int]

    @classmethod
    def of(cls, file_schema: pa.Schema, uri: str) -> "Form":
        """Of a shard. Raises SchemaError: not a shard, or one of another version."""
        front_end = front_end_of(file_schema.metadata or {}, uri)
        n_features, n_frames = json.loads(file_schema.field(front_end.column).metadata[schema.META_SHAPE])
        return cls(front_end, (n_features, n_frames))

    def require(self, this: "Form", uri: str) -> None:
        """Raise SchemaError if the shard at `uri` is of another form than those before it."""
        if difference := pcm.differences(self.front_end, this.front_end):
            raise SchemaError(f"{storage.display(uri)}: another front end than the shards before it: {difference}")
        if self.shape != this.shape:
            raise SchemaError(
                f"{storage.display(uri)}: pictures of {list(this.shape)}, the shards before it have {list(self.shape)}"
            )


@dataclass(frozen=True)
class Examples:
    """Rows of shards in memory.

    Attributes:
        front_end: that made them.
        pictures: [N, n_features, n_frames] float16; of waveforms [N, 1, n_samples] int16.
        valid_frames: [N] int32; frames beyond are padding.
        columns: the other columns asked for, in the same order.
    """

    front_end: AnyFrontEnd
    pictures: np.ndarray
    valid_frames: np.ndarray
    columns: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def log_mel(self) -> np.ndarray:
        """The pictures. Raises SchemaError where they are waveforms."""
        if isinstance(self.front_end, Pcm):
            raise SchemaError(f"the shards hold waveforms ({self.front_end.name}), no log-mel pictures; extract those")
        return self.pictures

    @property
    def labels(self) -> list[list[str]]:
        return self.columns["labels"]

    def take(self, rows: np.ndarray) -> "Examples":
        """Some of the rows, by index."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Examples(self.front_end, self.pictures[rows], self.valid_frames[rows], columns)


EXAMPLE_COLUMNS = (
    "clip_id",
    "uri",
    "segment_index",
    "start_s",
    "copy_index",
    "transform_set",
    "labels",
    "fold",
    "source_id",
)


def load(
    run_uris: Sequence[str],
    *,
    copies: bool,
    fold: int | None = None,
    exclude_fold: int | None = None,
) -> Examples:
    """Read the rows of one or several extractions into memory, ordered by clip, segment and copy.

    Args:
        run_uris: run directories of jobs/extract.py.
        copies: whether augmented copies are wanted too.
        fold: rows of this fold only.
        exclude_fold: rows of every other fold.

    Raises:
        ConfigError: no shards, or no such rows in them.
        SchemaError: shards of different front ends or shapes.
    """
    uris = [uri for run in run_uris for uri in committed_files(storage.to_uri(run))]
    examples = load_files(uris, copies=copies, fold=fold, exclude_fold=exclude_fold)
    if len(examples) == 0:
        raise ConfigError(f"the shards hold no rows{in_words(fold, exclude_fold)}")
    return examples


def all_labels(run_uris: Sequence[str]) -> tuple[list[list[str]], list[int | None]]:
    """Labels and fold of every original segment, in no particular order."""
    table = read_columns(run_uris, ["labels", "fold", "copy_index"]).filter(pc.field("copy_index") == 0)
    return table["labels"].to_pylist(), table["fold"].to_pylist()


def read_columns(run_uris: Sequence[str], columns: list[str]) -> pa.Table:
    """Some columns of every row, in no particular order."""
    uris = [uri for run in run_uris for uri in committed_files(storage.to_uri(run))]
    read = partial(parquet_files.read, columns=columns)
    return pa.concat_tables(table.replace_schema_metadata() for table in read_ahead.each(read, uris))


def load_files(
    uris: Iterable[str], *, copies: bool, fold: int | None = None, exclude_fold: int | None = None
) -> Examples:
    """`load` for named shard files; there may be no such rows in them."""
    form: Form | None = None
    tables: list[pa.Table] = []
    for uri in uris:
        with parquet_files.opened(uri) as file:
            this = Form.of(file.schema_arrow, uri)
            table = file.read([*EXAMPLE_COLUMNS, this.front_end.column, "valid_frames"])
        form = form or this
        form.require(this, uri)
        tables.append(table.filter(wanted(copies, fold, exclude_fold)).replace_schema_metadata())
    if form is None:
        raise ConfigError("no shard files given")
    table = pa.concat_tables(tables)
    table = table.sort_by([("clip_id", "ascending"), ("segment_index", "ascending"), ("copy_index", "ascending")])
    pictures = to_pictures(table[form.front_end.column], form.shape, form.front_end.dtype)
    columns = {name: table[name].to_pylist() for name in EXAMPLE_COLUMNS}
    return Examples(form.front_end, pictures, table["valid_frames"].to_numpy(), columns)


def to_pictures(column: pa.ChunkedArray, shape: Sequence[int], dtype: type[np.generic]) -> np.ndarray:
    """[N, n_features, n_frames], writable, of a front end's column and dtype."""
    pictures = np.empty((len(column), *shape), dtype)
    at = 0
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1], dtype).reshape(-1, *shape)
        pictures[at : at + len(chunk)] = values[chunk.offset : chunk.offset + len(chunk)]
        at += len(chunk)
    return pictures


def wanted(copies: bool, fold: int | None, exclude_fold: int | None) -> pc.Expression:
    """Which rows `load` reads."""
    rows = pc.scalar(True)
    if not copies:
        rows &= pc.field("copy_index") == 0
    if fold is not None:
        rows &= pc.field("fold") == fold
    if exclude_fold is not None:
        rows &= pc.field("fold").is_null() | (pc.field("fold") != exclude_fold)
    return rows


def in_words(fold: int | None, exclude_fold: int | None) -> str:
    """A choice of folds, to follow the word rows."""
    if fold is not None:
        return f" of fold {fold}"
    return f" outside fold {exclude_fold}" if exclude_fold is not None else ""
