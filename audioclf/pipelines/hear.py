"""A row of shards → the sound that its picture was made from. Needs no Ray."""

import io
import logging
from typing import Any

import pyarrow.compute as pc
import soundfile

from audioclf import parquet_files, rundir, shards, storage
from audioclf.config import HearConfig
from audioclf.errors import ClipError, ConfigError
from audioclf.row_sound import ROW_COLUMNS, RowSounds
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

NAMED = 20
"""Things that an error names at most."""


def run(config: HearConfig) -> str:
    """Find the row, read its segment, transform it as it was, write it.

    A stretched copy is written whole; its picture shows as much of it as a segment holds.
    """
    storage.reach(config.shards, config.output)
    directory = RunDirectory(config.shards)
    sounds = RowSounds(directory)
    row = _row(directory, config)
    try:
        samples = sounds.samples(row)
    except ClipError as error:  # here nothing else is left to do
        raise ConfigError(str(error)) from error
    rate = sounds.front_end.sample_rate
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", subtype="FLOAT")
    storage.write_bytes(storage.to_uri(config.output), content.getvalue())
    log.info(
        "hear: segment %d, copy %d (%s %s) of %s: %.3f s at %d Hz; wrote %s",
        config.segment, config.copy, row["transform_set"], row["transform_params"], storage.display(row["uri"]),
        len(samples) / rate, rate, config.output,
    )  # fmt: skip
    return "ok"


def _row(directory: RunDirectory, config: HearConfig) -> dict[str, Any]:
    """The row asked for.

    Raises:
        ConfigError: there is none; says what there is.
    """
    others: list[str] = []
    of_clip: list[dict[str, Any]] = []
    for uri in shards.committed_files(directory.uri):
        table = parquet_files.read(uri, ["uri", *ROW_COLUMNS])
        if len(others) < NAMED:
            others += table["clip_id"].unique().to_pylist()[: NAMED - len(others)]
        of_clip += table.filter(pc.field("clip_id") == config.clip_id).to_pylist()
        for row in of_clip:
            if (row["segment_index"], row["copy_index"]) == (config.segment, config.copy):
                return row
    rejected = _why_rejected(directory, config)
    if not of_clip:
        raise ConfigError(rejected or f"{directory}: no clip {config.clip_id}; there are {_some(others)}")
    copies = {row["copy_index"]: row["transform_set"] for row in of_clip if row["segment_index"] == config.segment}
    if not copies:
        there = _some(sorted({row["segment_index"] for row in of_clip}))
        raise ConfigError(rejected or f"clip {config.clip_id} has no segment {config.segment}; there are {there}")
    there = _some([f"{index} ({name})" for index, name in sorted(copies.items())])
    where = f"segment {config.segment} of clip {config.clip_id}"
    raise ConfigError(rejected or f"{where} has no copy {config.copy}; there are {there}")


def _some(names: list[Any]) -> str:
    return ", ".join(map(str, names[:NAMED])) + (" …" if len(names) >= NAMED else "")


def _why_rejected(directory: RunDirectory, config: HearConfig) -> str | None:
    """What the rejects say of the row; None where they do not name it."""
    for name in sorted(storage.names_in(directory.at(rundir.REJECTS))):
        table = parquet_files.read(directory.at(rundir.REJECTS, name))
        for row in table.filter(pc.field("clip_id") == config.clip_id).to_pylist():
            if row["segment_index"] in (None, config.segment) and row["copy_index"] in (None, config.copy):
                return f"{storage.display(row['uri'])}: was rejected: {row['error']}: {row['message']}"
    return None
