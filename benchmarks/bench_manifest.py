"""Seconds and peak memory of making a manifest of millions of clips, of planning its extraction, and of starting it.

Each step runs in a process of its own, so that its peak is its own.
"""

import argparse
import logging
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import manifest, rundir, schema, storage
from audioclf.config import ExtractConfig, ManifestConfig
from audioclf.pipelines import extract
from audioclf.pipelines import manifest as manifest_job
from audioclf.storage import FileInfo
from audioclf.units import MAX_UNIT_SEGMENTS, Unit

BATCH_ROWS = 65_536
CLASSES, PARTS = 527, 41


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows of the manifest")
    parser.add_argument("--folds", type=int, help="deal the made manifest's clips into so many folds")
    args = parser.parse_args()
    rows, folds = args.rows, args.folds
    with tempfile.TemporaryDirectory() as folder:
        clip = next((corpus.hard_linked_clips(Path(folder, "clips"), 1) / "noise").iterdir())
        written, made = str(Path(folder, "written.parquet")), str(Path(folder, "made.parquet"))
        report("import the libraries", nothing)
        report(f"write {rows:,} rows", write_synthetic, written, rows, clip)
        plan_s, plan_mb = report("plan their extraction", plan, written)
        report(f"list {rows:,} made-up files", exhaust_listing, rows)
        report("list, lay out, check and write them", make, made, rows, folds)
        report("plan their extraction", plan, made)
        first_s = {}
        for done in (0.0, 0.9):
            first_s[done] = first_unit_s(written, Path(folder, f"run-{done}"), rows, done)
            print(
                f"first unit of an extraction with {done:.0%} done: {first_s[done]:.1f} s after its start", flush=True
            )
    print("required at 5,000,000 rows: planned in 60 s and 2,000 MB, first unit of a resume within 60 s")
    sys.exit(plan_s > 60 or plan_mb > 2000 or first_s[0.9] > 60)


def report(what: str, step: Callable[..., None], *args: object) -> tuple[float, float]:
    """Run a step in a fresh process and print what it took: seconds, and MB at its peak."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, peak_mb = pool.submit(measure, step, *args).result()
    print(f"{what:40s} {seconds:7.1f} s, peak {peak_mb:7,.0f} MB", flush=True)
    return seconds, peak_mb


def measure(step: Callable[..., None], *args: object) -> tuple[float, float]:
    """Seconds of a step, and this process's peak in MB."""
    logging.basicConfig(format="    %(asctime)s %(message)s", level=logging.INFO)
    began = time.perf_counter()
    step(*args)
    return time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def nothing() -> None:
    """What every process has in memory already."""


def plan(path: str) -> None:
    """All that extract does before it starts Ray."""
    extract.run(ExtractConfig(manifest=path, output=f"{path}-run", segment_s=5.0, dry_run=True))


def first_unit_s(path: str, output: Path, rows: int, done: float) -> float:
    """Seconds from the start of an extraction, of which a part seems done, to its first unit; then it is stopped."""
    data = output / rundir.DATA
    data.mkdir(parents=True)
    n_units = -(-rows // MAX_UNIT_SEGMENTS)
    for i in range(round(done * n_units)):
        (data / Unit(i, 0, 0).name).touch()
    before = len(list(data.iterdir()))
    command = [sys.executable, corpus.ROOT / "jobs" / "extract.py", "--manifest", path, "--output", output]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--segment-s", "5"], stderr=subprocess.PIPE, text=True)
    while len(list(data.glob("unit-*"))) == before:
        if process.poll() is not None:
            sys.exit(f"jobs/extract.py: exit {process.returncode}\n{process.stderr.read() if process.stderr else ''}")
        time.sleep(0.1)
    seconds = time.perf_counter() - began
    process.terminate()  # SIGINT is ignored by what a shell runs in the background
    process.communicate()
    return seconds


def exhaust_listing(rows: int) -> None:
    """The making-up alone, to be subtracted from the time of `make`."""
    for _ in listing(rows):
        pass


def make(path: str, rows: int, folds: int | None) -> None:
    """The manifest job on a bucket that is not there."""
    with mock.patch.multiple(storage, list_files=mock.Mock(return_value=listing(rows)), reach=mock.Mock()):
        manifest_job.run(ManifestConfig("s3://audio-collection/clips", path, folds=folds))


def listing(rows: int) -> Iterator[FileInfo]:
    """Files of ten seconds of 44.1 kHz PCM, in the order of another collection's names."""
    for i in range(rows):
        path = f"class_{i % CLASSES:03d}/part_{i % PARTS:02d}/Y{i * 7_919 % rows:011d}_30000_40000.wav"
        yield FileInfo(f"s3://audio-collection/clips/{path}", path, 882_044, f'"{i:032x}"', 1.7e9)


def write_synthetic(path: str, rows: int, clip: Path) -> None:
    """A manifest whose clips have random ids and are all one file."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema.MANIFEST, compression="zstd") as writer:
        for start in range(0, rows, BATCH_ROWS):
            table = synthetic(rng, min(BATCH_ROWS, rows - start), clip)
            writer.write_table(table, row_group_size=manifest.ROW_GROUP_ROWS)


def synthetic(rng: np.random.Generator, count: int, clip: Path) -> pa.Table:
    """Rows of a manifest, column by column."""
    ids = hexadecimal(rng, count)
    label = pa.array([f"class {c}" for c in range(CLASSES)]).take(pa.array(rng.integers(0, CLASSES, count)))
    known: dict[str, pa.Array] = {
        "clip_id": ids,
        "uri": pa.array([clip.as_uri()] * count),
        "size_bytes": pa.array(np.full(count, clip.stat().st_size)),
        "etag": pa.array([str(clip.stat().st_mtime_ns)] * count),
        "labels": pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), label),
        "fold": pa.array(rng.integers(1, 6, count), pa.int32()),
        "source_id": ids,
        "duration_s": pa.array(np.full(count, 5.0)),
        "sample_rate": pa.array(np.full(count, 44_100), pa.int32()),
        "channels": pa.array(np.full(count, 1), pa.int32()),
    }
    columns = [known.get(field.name, pa.nulls(count, field.type)) for field in schema.MANIFEST]
    return pa.table(columns, schema=schema.MANIFEST)


def hexadecimal(rng: np.random.Generator, count: int) -> pa.Array:
    """Strings of 32 random digits."""
    return pa.array([rng.bytes(16).hex() for _ in range(count)])


if __name__ == "__main__":
    main()
