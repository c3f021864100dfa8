"""Seconds and peak memory of making a manifest of millions of clips, and of reading it as extract does.

Each step runs in a process of its own, so that its peak is its own.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import manifest, schema, storage
from audioclf.config import ManifestConfig
from audioclf.pipelines import manifest as manifest_job
from audioclf.storage import FileInfo

BATCH_ROWS = 65_536
PLAN_COLUMNS = ["clip_id", "size_bytes", "duration_s", "sample_rate", "channels", "start_s", "end_s"]
CLASSES, PARTS = 527, 41


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the manifest")
    parser.add_argument("--folds", type=int, help="deal the made manifest's clips into so many folds")
    args = parser.parse_args()
    rows, folds = args.rows, args.folds
    with tempfile.TemporaryDirectory() as folder:
        written, made = str(Path(folder, "written.parquet")), str(Path(folder, "made.parquet"))
        report("import the libraries", nothing)
        report(f"write {rows:,} rows", write_synthetic, written, rows)
        report("read them as extract does, and plan", read_and_plan, written)
        report(f"list {rows:,} made-up files", exhaust_listing, rows)
        report("list, lay out, check and write them", make, made, rows, folds)
        report("read them as extract does, and plan", read_and_plan, made)


def report(what: str, step: Callable[..., None], *args: object) -> None:
    """Run a step in a fresh process and print what it took."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, peak_mb = pool.submit(measure, step, *args).result()
    print(f"{what:40s} {seconds:7.1f} s, peak {peak_mb:7,.0f} MB", flush=True)


def measure(step: Callable[..., None], *args: object) -> tuple[float, float]:
    """Seconds of a step, and this process's peak in MB."""
    logging.basicConfig(format="    %(asctime)s %(message)s", level=logging.INFO)
    began = time.perf_counter()
    step(*args)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def nothing() -> None:
    """What every process has in memory already."""


def read_and_plan(path: str) -> None:
    """The part of extract that looks at the whole manifest."""
    plan_units(manifest.read(storage.to_uri(path), PLAN_COLUMNS).table)


def plan_units(clips: pa.Table) -> None:
    """Where the planning of units is to be timed."""


def exhaust_listing(rows: int) -> None:
    """The making-up alone, to be subtracted from the time of `make`."""
    for _ in listing(rows):
        pass


def make(path: str, rows: int, folds: int | None) -> None:
    """The manifest job on a bucket that is not there."""
    with mock.patch.object(storage, "list_files", return_value=listing(rows)):
        manifest_job.run(ManifestConfig("s3://audio-collection/clips", path, folds=folds))


def listing(rows: int) -> Iterator[FileInfo]:
    """Files of ten seconds of 44.1 kHz PCM, in the order of another collection's names."""
    for i in range(rows):
        path = f"class_{i % CLASSES:03d}/part_{i % PARTS:02d}/Y{i * 7_919 % rows:011d}_30000_40000.wav"
        yield FileInfo(f"s3://audio-collection/clips/{path}", path, 882_044, f'"{i:032x}"', 1.7e9)


def write_synthetic(path: str, rows: int) -> None:
    """A manifest whose clips have random ids and known durations."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema.MANIFEST, compression="zstd") as writer:
        for start in range(0, rows, BATCH_ROWS):
            table = synthetic(rng, start, min(BATCH_ROWS, rows - start))
            writer.write_table(table, row_group_size=manifest.ROW_GROUP_ROWS)


def synthetic(rng: np.random.Generator, start: int, count: int) -> pa.Table:
    """Rows of a manifest, column by column."""
    ids = hexadecimal(rng, count)
    label = pa.array([f"class {c}" for c in range(CLASSES)]).take(pa.array(rng.integers(0, CLASSES, count)))
    known: dict[str, pa.Array] = {
        "clip_id": ids,
        "uri": pa.array(
            [f"s3://audio-collection/clips/Y{i:011d}_30000_40000.wav" for i in range(start, start + count)]
        ),
        "size_bytes": pa.array(rng.integers(800_000, 900_000, count)),
        "etag": hexadecimal(rng, count),
        "labels": pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), label),
        "fold": pa.array(rng.integers(1, 6, count), pa.int32()),
        "source_id": ids,
        "duration_s": pa.array(rng.uniform(9, 10, count)),
        "sample_rate": pa.array(np.full(count, 44_100), pa.int32()),
        "channels": pa.array(rng.integers(1, 3, count), pa.int32()),
    }
    columns = [known.get(field.name, pa.nulls(count, field.type)) for field in schema.MANIFEST]
    return pa.table(columns, schema=schema.MANIFEST)


def hexadecimal(rng: np.random.Generator, count: int) -> pa.Array:
    """Strings of 32 random digits."""
    return pa.array([rng.bytes(16).hex() for _ in range(count)])


if __name__ == "__main__":
    main()
