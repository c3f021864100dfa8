"""What a tagging run's units committed → a row a recording, events, files for other programs."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import events, parquet_files, read_ahead, rundir, schema, storage, tag_exports
from audioclf.rundir import RunDirectory
from audioclf.tagging import PARTS

RUNS = "runs"
"""Folder of a tag output: a run directory for each run."""

RUN_NAME, RUN_PATTERN = "%Y%m%dT%H%M%S.%fZ", re.compile(r"\d{8}T\d{6}\.\d{6}Z")
"""A run's: when it began, in UTC. Their order is that of time."""

RECORDINGS, EVENTS = "recordings.parquet", "events.parquet"
"""Files of a run directory."""

LABELS = "labels"
"""Folder of Audacity's labels."""

ROWS_IN_GROUP = 1 << 16
"""Of those files. A group a unit would make the ledger of a million units take gigabytes to read."""


@dataclass(frozen=True)
class TagRun:
    """One run of a tag output.

    Attributes:
        directory: of the run.
        name: when it began.
    """

    directory: RunDirectory
    name: str

    def is_closed(self) -> bool:
        """Whether what its units committed has been brought together."""
        return storage.exists(self.directory.at(RECORDINGS))

    def is_told(self) -> bool:
        """Whether it is closed, and what it did has been said and written down."""
        return storage.exists(self.directory.at(rundir.SUMMARY))

    def close(self, class_names: Sequence[str], event_gap_s: float, exports: Sequence[str]) -> None:
        """Bring together what units committed: the recordings that are done, their events, the exports.

        Of a run that was killed, recordings of which some part is missing are left out; they are due again.

        Args:
            class_names: of the network.
            event_gap_s: between windows of one event at most.
            exports: csv, jsonl, audacity.
        """
        run = self.directory
        committed = sorted(run.committed(rundir.DATA))  # once: a worker that outlives its driver may commit more
        # The outer file appears last: it says that the run is closed.
        with _parquet(run.at(RECORDINGS), schema.RECORDING) as recordings:
            with _parquet(run.at(EVENTS), schema.EVENT) as found:
                for parts, tags in _whole_recordings(run, committed):
                    recordings.add(_recordings(parts, class_names))
                    found.add(events.merge(tags, event_gap_s))
            for name in exports:
                _export(run, committed, name)


def runs_of(output: RunDirectory) -> list[TagRun]:
    """The runs of a tag output, the oldest first; other folders that somebody put beside them are none."""
    names = [name for name in storage.folders_in(output.at(RUNS)) if RUN_PATTERN.fullmatch(name)]
    return [TagRun(RunDirectory(output.at(RUNS, name)), name) for name in names]


def _export(run: RunDirectory, committed: Sequence[str], format_: str) -> None:
    def found() -> Iterator[pa.Table]:
        return _batches(run.at(EVENTS), schema.EVENT)

    if format_ == "audacity":
        tag_exports.write_audacity(found(), run.at(LABELS))
        return
    tags = (tags for _, tags in _whole_recordings(run, committed))
    tag_exports.write(tags, format_, run.at(f"tags.{format_}"), schema.TAG)
    tag_exports.write(found(), format_, run.at(f"events.{format_}"), schema.EVENT)


class _ParquetRows:
    """Adds rows to a Parquet file, ROWS_IN_GROUP or a few more in a group."""

    def __init__(self, writer: pq.ParquetWriter):
        self._writer, self._waiting, self._n = writer, list[pa.Table](), 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._n += len(rows)
        if self._n >= ROWS_IN_GROUP:
            self.flush()

    def flush(self) -> None:
        if self._n:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._n = [], 0


@contextlib.contextmanager
def _parquet(uri: str, target: pa.Schema) -> Iterator[_ParquetRows]:
    with storage.create(uri) as file, pq.ParquetWriter(file, target, compression="zstd") as writer:
        rows = _ParquetRows(writer)
        yield rows
        rows.flush()


def _whole_recordings(run: RunDirectory, committed: Sequence[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Parts and tags of whole recordings, unit by unit; those of a recording over several units together."""

    def unit(name: str) -> tuple[pa.Table, pa.Table]:
        parts, tags = (parquet_files.read(run.at(folder, name)) for folder in (PARTS, rundir.DATA))
        return parts.replace_schema_metadata(), tags.replace_schema_metadata(schema.TAG.metadata)

    for long, units in groupby(read_ahead.each(unit, committed), key=lambda unit: _long_recording(unit[0])):
        if long is None:
            yield from units
            continue
        of_recording, tags = (pa.concat_tables(tables) for tables in zip(*units, strict=True))
        if of_recording["segments"].to_numpy().sum() == of_recording["segments_total"][0].as_py():
            yield of_recording, tags


def _long_recording(parts: pa.Table) -> str | None:
    """The clip_id of the recording of which a unit is a part."""
    return parts["clip_id"][0].as_py() if len(parts) and parts["segments_total"][0].as_py() else None


def _batches(uri: str, target: pa.Schema) -> Iterator[pa.Table]:
    with storage.open_ranged(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches():
            yield pa.Table.from_batches([batch]).cast(target)


def _recordings(parts: pa.Table, class_names: Sequence[str]) -> pa.Table:
    """RECORDING rows; the parts of a long one become one."""
    rows = parts.to_pylist()
    if _long_recording(parts) is None:
        return parts.select(schema.RECORDING.names).cast(schema.RECORDING)
    windows = sum(row["windows"] for row in rows)
    probability_sum = np.sum([row["probability_sum"] for row in rows], axis=0)
    best = int(probability_sum.argmax())
    statuses = {row["status"] for row in rows}
    merged = {
        **rows[0],
        "status": statuses.pop() if len(statuses) == 1 else "partial",
        "retry": any(row["retry"] for row in rows),
        "duration_s": sum(row["duration_s"] for row in rows),
        "windows": windows,
        "flags": sorted(
            flag
            for flag in {flag for row in rows for flag in row["flags"]}
            if flag != "silent" or all("silent" in row["flags"] for row in rows)
        ),
        "top_tag": class_names[best] if windows else None,
        "top_probability": float(probability_sum[best]) / windows if windows else None,
    }
    return pa.Table.from_pylist([merged], schema=schema.RECORDING)
