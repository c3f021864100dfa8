"""A closed tagging run in figures, counted from what is committed."""

from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audioclf import parquet_files, read_ahead, rundir, schema, storage
from audioclf.errors import ConservationError
from audioclf.rundir import RunDirectory
from audioclf.tag_results import RECORDINGS


def count(run: RunDirectory, planned: int, tried: pa.ChunkedArray, max_reject_fraction: float) -> dict[str, Any]:
    """The summary of a run that has done all it planned.

    Args:
        run: its directory, closed.
        planned: recordings.
        tried: the clip_id of those among them that were rejected before. Where they are rejected again, that has been
            told: they don't count, or one file that nobody may read would make every quiet night a failure.
        max_reject_fraction: of the others, that may be rejected, wholly or partly.

    Raises:
        ConservationError: a recording is missing, or there twice.
    """
    recordings = parquet_files.read(run.at(RECORDINGS), ["clip_id", "status"])
    n_different = len(recordings["clip_id"].unique())
    if not len(recordings) == n_different == planned:
        raise ConservationError(
            f"{run}: {planned:,} recordings planned, {len(recordings):,} accounted for, {n_different:,} different; "
            "run the same command again"
        )
    not_ok = recordings.filter(pc.field("status") != "ok")
    again = not_ok.filter(pc.field("clip_id").isin(tried.combine_chunks()))
    too_many = len(not_ok) - len(again) > max_reject_fraction * (planned - len(again))
    counted = total(run)
    return {
        "job": "tag",
        "status": "too_many_rejects" if too_many else "ok",
        "total": {
            **counted,
            "recordings": {"planned": planned, **counted["recordings"], "rejected_again": len(again)},
        },
        "max_reject_fraction": max_reject_fraction,
    }


def total(run: RunDirectory) -> dict[str, Any]:
    """What a closed run dealt with; of one that was killed, less than it had planned."""
    recordings = parquet_files.read(run.at(RECORDINGS), ["status", "duration_s", "windows", "flags"])
    of_status = Counter(recordings["status"].to_pylist())
    flags = recordings["flags"].combine_chunks().flatten().to_pylist()
    return {
        "recordings": {status: of_status[status] for status in ("ok", "partial", "rejected")},
        "windows": int(recordings["windows"].to_numpy().sum()),
        "tags": sum(read_ahead.each(_rows, [run.at(rundir.DATA, name) for name in run.committed(rundir.DATA)])),
        "audio_s": round(float(recordings["duration_s"].to_numpy().sum()), 3),
        "rejects_by_reason": dict(Counter(read_rejects(run)["error"].to_pylist())),
        "recordings_by_flag": dict(Counter(flags)),
    }


def read_rejects(run: RunDirectory) -> pa.Table:
    """The reject rows of a closed run: those of recordings that it left partly or wholly rejected.

    A unit whose worker died may have left others, which did not come up again when it was done anew.
    """
    tables = read_ahead.each(parquet_files.read, run.committed_rejects())
    rejects = pa.concat_tables([schema.REJECT.empty_table(), *tables])
    recordings = parquet_files.read(run.at(RECORDINGS), ["clip_id", "status"])
    not_ok = recordings.filter(pc.field("status") != "ok")["clip_id"]
    return rejects.filter(pc.field("clip_id").isin(not_ok.combine_chunks()))


def _rows(uri: str) -> int:
    with storage.open_ranged(uri) as file:
        return pq.ParquetFile(file).metadata.num_rows
