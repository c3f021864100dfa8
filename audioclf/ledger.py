"""What a tag output has already dealt with: one snapshot, and what runs committed since it was made."""

import io
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import schema, shards, storage
from audioclf.rundir import RunDirectory
from audioclf.tagging import RECORDINGS

SNAPSHOT = ("ledger", "snapshot.parquet")
META_RUNS = b"audioclf.runs"  # JSON: the runs that are in the snapshot

COLUMNS = ["clip_id", "size_bytes", "etag", "status"]
LEDGER = pa.schema([schema.RECORDING.field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Ledger:
    """The recordings of all runs, the newest state of each.

    Attributes:
        table: COLUMNS, one row a recording.
        runs: names of the runs it covers.
    """

    table: pa.Table
    runs: tuple[str, ...]

    def seen(self) -> dict[str, tuple[int, str]]:
        """clip_id to size and etag as they were when it was dealt with; rejected ones too."""
        columns = [self.table[name].to_pylist() for name in ("clip_id", "size_bytes", "etag")]
        return {clip_id: (size, etag) for clip_id, size, etag in zip(*columns, strict=True)}


def read(output: RunDirectory, run_names: list[str]) -> Ledger:
    """The snapshot, and the committed units of the runs that it does not cover (a killed run's too)."""
    covered: tuple[str, ...] = ()
    tables = [LEDGER.empty_table()]
    if storage.exists(output.at(*SNAPSHOT)):
        snapshot = shards.read_table(output.at(*SNAPSHOT))
        covered = tuple(json.loads((snapshot.schema.metadata or {})[META_RUNS]))
        tables.append(snapshot.replace_schema_metadata())
    for run in sorted(set(run_names) - set(covered)):
        folder = RunDirectory(output.at("runs", run))
        committed = sorted(folder.committed(shards.DATA))
        units = (shards.read_table(folder.at(RECORDINGS, name), COLUMNS) for name in committed)
        tables.extend(unit.replace_schema_metadata() for unit in units)
    return Ledger(_latest(pa.concat_tables(tables)), tuple(sorted({*covered, *run_names})))


def write_snapshot(output: RunDirectory, ledger: Ledger) -> None:
    """Replace the snapshot."""
    buffer = io.BytesIO()
    metadata = {META_RUNS: json.dumps(ledger.runs)}
    pq.write_table(ledger.table.replace_schema_metadata(metadata), buffer, compression="zstd")
    storage.write_bytes(output.at(*SNAPSHOT), buffer.getvalue())


def _latest(table: pa.Table) -> pa.Table:
    """The last row of each clip_id."""
    with_order = table.append_column("order", pa.array(range(len(table)), pa.int64()))
    last = with_order.group_by("clip_id").aggregate([("order", "max")])["order_max"]
    return table.take(last.combine_chunks().sort()) if len(table) else table
