"""What a tag output has already dealt with: one snapshot, and what runs committed since it was made.

The snapshot lies apart from the runs, so that old ones can be removed and what they dealt with is still known. It is a
Parquet file with one row a recording, and one hundred bytes of memory a row: ten million are no trouble.

>>> tags = ledger.latest("s3://bucket/tags")                      # a pyarrow Table
>>> tags = ledger.latest("tags", ["uri", "start_s", "tag", "probability"]).to_pandas()
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audioclf import parquet_files, read_ahead, rundir, schema, storage
from audioclf.errors import ConfigError
from audioclf.rundir import RunDirectory
from audioclf.tag_results import RECORDINGS, RUNS, runs_of

SNAPSHOT = ("ledger", "snapshot.parquet")
META_RUNS = b"audioclf.runs"  # JSON: the runs that are in the snapshot

_OF_RUN = ["clip_id", "size_bytes", "etag", "status", "retry"]

LEDGER = pa.schema(
    [
        *(schema.RECORDING.field(name) for name in _OF_RUN),
        pa.field("run", pa.string(), nullable=False),  # whose rows are the latest
        pa.field("listed", pa.bool_(), nullable=False),  # it was there, and the same, when the input was last listed
    ],
    metadata={schema.META_VERSION: schema.SCHEMA_VERSION},
)


@dataclass(frozen=True)
class Ledger:
    """The recordings of all runs, the newest state of each; rejected ones too.

    Attributes:
        table: LEDGER, one row a recording.
        runs: names of the runs it covers.
        stored: whether the snapshot says the same.
    """

    table: pa.Table
    runs: frozenset[str]
    stored: bool

    def due(self, found: pa.Table, retry_rejected: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Which recordings are to be dealt with: two [N] bool.

        Args:
            found: with the columns clip_id, size_bytes and etag.
            retry_rejected: all that were rejected, wholly or partly, and not only what may have passed since.

        Returns:
            Those that are new, or have another size or etag than when they were dealt with; those that were rejected
            as they are, and are to be retried.
        """
        row = self._unchanged(found)
        again = self.table["retry"].to_numpy()
        if retry_rejected:
            again = again | (self.table["status"].to_numpy() != "ok")
        new = row < 0
        retried = np.zeros(len(row), bool)
        retried[~new] = again[row[~new]]
        return new, retried

    def compare(self, found: pa.Table) -> tuple[int, int]:
        """How many recordings were dealt with and have another size or etag now, and how many were there when the input
        was last listed, and are not.

        Args:
            found: with the columns clip_id, size_bytes and etag.
        """
        row = _rows_of(found["clip_id"], self.table["clip_id"])
        known = row[row >= 0]
        listed = self.table["listed"].to_numpy()
        return len(known) - int((self._unchanged(found, row) >= 0).sum()), int(listed.sum() - listed[known].sum())

    def listing(self, found: pa.Table, whole: bool = True) -> "Ledger":
        """The same with `listed` as a listing of the input says; what is gone or has changed stays known.

        Args:
            found: with the columns clip_id, size_bytes and etag.
            whole: whether it names all there is; of what others don't name, `listed` stays.
        """
        listed = np.zeros(len(self.table), bool)
        if not whole:
            listed |= self.table["listed"].to_numpy() & (_rows_of(self.table["clip_id"], found["clip_id"]) < 0)
        unchanged = self._unchanged(found)
        listed[unchanged[unchanged >= 0]] = True
        if np.array_equal(listed, self.table["listed"].to_numpy()):
            return self
        at = LEDGER.get_field_index("listed")
        return Ledger(self.table.set_column(at, LEDGER.field(at), pa.array(listed)), self.runs, stored=False)

    def _unchanged(self, found: pa.Table, row: np.ndarray | None = None) -> np.ndarray:
        """[N] the row of each recording that is as it was when it was dealt with, −1 for others.

        Args:
            found: with the columns clip_id, size_bytes and etag.
            row: [N] of each recording, −1 for one that is not known; None: to be found.
        """
        row = _rows_of(found["clip_id"], self.table["clip_id"]) if row is None else row.copy()
        known = row >= 0
        at, there = pa.array(row[known]), pa.array(known)
        same = np.ones(int(known.sum()), bool)
        for name in ("size_bytes", "etag"):
            same &= _equal(found[name].filter(there), self.table[name].take(at))
        row[known] = np.where(same, row[known], -1)
        return row


def _rows_of(values: pa.ChunkedArray, among: pa.ChunkedArray) -> np.ndarray:
    """[N] where each value is found, −1 where it is not."""
    found = pc.call_function("index_in", [values], pc.SetLookupOptions(among))
    return found.fill_null(-1).to_numpy().astype(np.int64)


def _equal(some: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    return pc.call_function("equal", [some, others]).to_numpy().astype(bool)


def read(output: RunDirectory, run_names: Iterable[str]) -> Ledger:
    """The snapshot, and the recordings of the closed runs that it does not cover."""
    covered: set[str] = set()
    tables = [LEDGER.empty_table()]
    if storage.exists(output.at(*SNAPSHOT)):
        snapshot = parquet_files.read(output.at(*SNAPSHOT))
        covered = set(json.loads((snapshot.schema.metadata or {})[META_RUNS]))
        tables.append(snapshot.replace_schema_metadata(LEDGER.metadata))
    since = sorted(set(run_names) - covered)
    for run in since:
        table = parquet_files.read(output.at(RUNS, run, RECORDINGS), _OF_RUN).replace_schema_metadata()
        columns = [*table.columns, pa.array([run] * len(table), pa.string()), pa.array([True] * len(table), pa.bool_())]
        tables.append(pa.Table.from_arrays(columns, schema=LEDGER))
    table = pa.concat_tables(tables)
    return Ledger(_last_of_each(table) if since else table, frozenset(covered.union(since)), stored=not since)


def write_snapshot(output: RunDirectory, ledger: Ledger) -> None:
    """Replace the snapshot, if it says anything else."""
    if ledger.stored:
        return
    metadata = {**(LEDGER.metadata or {}), META_RUNS: json.dumps(sorted(ledger.runs))}
    with storage.create(output.at(*SNAPSHOT)) as file:
        pq.write_table(ledger.table.replace_schema_metadata(metadata), file, compression="zstd")


def _last_of_each(table: pa.Table) -> pa.Table:
    """The last row of each clip_id."""
    with_order = table.append_column("order", pa.array(np.arange(len(table))))
    last = np.zeros(len(table), bool)
    last[with_order.group_by("clip_id").aggregate([("order", "max")])["order_max"].to_numpy()] = True
    return table.filter(pa.array(last))  # by `take`, Arrow refuses more than 2 GiB of names


def latest(output_uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The tags of every recording as it was when the input was last listed: none of a changed or deleted file.

    Args:
        output_uri: of jobs/tag.py, local or on S3.
        columns: of schema.TAG; default: all.

    Raises:
        ConfigError: no run of jobs/tag.py has ended here.
    """
    output = RunDirectory(output_uri)
    if not storage.exists(output.at(*SNAPSHOT)):
        raise ConfigError(f"{output}: no ledger here; give the --output of jobs/tag.py")
    snapshot = parquet_files.read(output.at(*SNAPSHOT))
    wanted = schema.TAG if columns is None else pa.schema([schema.TAG.field(name) for name in columns])
    tables = [wanted.empty_table()]
    for run in runs_of(output):
        current = snapshot.filter(pc.field("listed") & (pc.field("run") == run.name))["clip_id"]
        read = partial(parquet_files.read, columns=sorted({"clip_id", *wanted.names}))
        files = [run.directory.at(rundir.DATA, name) for name in sorted(run.directory.committed(rundir.DATA))]
        for tags in read_ahead.each(read, files if len(current) else []):
            tags = tags.filter(pa.array(_rows_of(tags["clip_id"], current) >= 0))
            tables.append(tags.select(wanted.names).replace_schema_metadata(wanted.metadata))
    return pa.concat_tables(tables)
