"""A bucket that is tagged night after night: only what is due is read, and nothing is lost or done twice."""

import io
import subprocess
from collections import Counter
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from audioclf import ledger, parquet_files, storage
from audioclf.labels import Vocabulary
from tests.buckets import new_bucket
from tests.fault_proxy import FaultProxy, delay
from tests.untrained import untrained

from .conftest import Jobs

RATE = 8_000
KEY = ["clip_id", "start_s", "rank"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A network of random weights."""
    untrained(Vocabulary(("cat", "dog", "rain"), False)).save(storage.to_uri(str(tmp_path / "checkpoint")))
    return str(tmp_path / "checkpoint")


@pytest.fixture
def bucket(gateway: FaultProxy) -> str:
    return new_bucket()


def record(bucket: str, name: str, seed: int) -> None:
    """Three seconds of noise, as an object."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).normal(scale=0.1, size=3 * RATE), RATE, format="WAV")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"in/{name}", Body=file.getvalue())


def reads(gateway: FaultProxy) -> Counter[str]:
    """How often each recording was read."""
    paths = (path.split("?")[0] for method, path in gateway.log if method == "GET")
    return Counter(path.rsplit("/", 1)[1] for path in paths if "/in/" in path and path.endswith(".wav"))


def sorted_rows(tags: pa.Table) -> pa.Table:
    return tags.sort_by([(name, "ascending") for name in KEY]).combine_chunks()


@pytest.mark.heavy
def test_night_after_night(gateway: FaultProxy, bucket: str, checkpoint: str) -> None:
    output = f"s3://{bucket}/tags"
    flags = ("--input", f"s3://{bucket}/in", "--checkpoint", checkpoint, "--unit-s", "9")
    for i in range(30):
        record(bucket, f"{i}.wav", i)
    gateway.log.clear()
    Jobs().succeed("tag", *flags, "--output", output)
    assert reads(gateway) == {f"{i}.wav": 1 for i in range(30)}

    record(bucket, "7.wav", 100)
    boto3.client("s3").delete_object(Bucket=bucket, Key="in/8.wav")
    for i in range(30, 120):
        record(bucket, f"{i}.wav", i)
    due = {"7.wav", *(f"{i}.wav" for i in range(30, 120))}
    gateway.log.clear()
    gateway.faults = lambda index, method, path: delay(1.0) if method == "GET" and "/in/" in path else None
    process = Jobs().start("tag", *flags, "--output", output)
    while len(runs := storage.folders_in(f"{output}/runs")) < 2 or not storage.names_in(
        f"{output}/runs/{runs[1]}/data"
    ):
        assert process.poll() is None
    process.kill()  # SIGKILL, to the driver alone
    process.communicate(timeout=60)
    gateway.faults = lambda index, method, path: None

    said = Jobs().succeed("tag", *flags, "--output", output)
    assert f"process {process.pid}" in said  # whose lock is taken over
    killed, last = (f"{output}/runs/{name}" for name in storage.folders_in(f"{output}/runs")[1:])
    done, rest = recordings(f"{killed}/recordings.parquet"), recordings(f"{last}/manifest.parquet")
    assert done
    assert rest == due - done
    assert set(reads(gateway)) == due

    Jobs().succeed("tag", *flags, "--output", f"s3://{bucket}/at-once")  # the archive as it is, by a new output
    latest = sorted_rows(ledger.latest(output))
    assert latest.equals(sorted_rows(ledger.latest(f"s3://{bucket}/at-once")))
    assert len(latest) == 119 * 3 * 3  # three windows of three tags


@pytest.mark.heavy
def test_a_store_that_is_away_for_half_a_minute_costs_nothing_but_time(
    gateway: FaultProxy, bucket: str, checkpoint: str
) -> None:
    for i in range(60):
        record(bucket, f"{i}.wav", i)
    boto3.client("s3").put_object(Bucket=bucket, Key="in/broken.wav", Body=b"RIFF")
    flags = (
        "--input",
        f"s3://{bucket}/in",
        "--checkpoint",
        checkpoint,
        "--unit-s",
        "9",
        "--output",
        f"s3://{bucket}/tags",
    )
    gateway.faults = lambda index, method, path: delay(0.5) if method == "GET" and "/in/" in path else None
    process = Jobs().start("tag", *flags)
    while not (runs := storage.folders_in(f"s3://{bucket}/tags/runs")) or not storage.names_in(
        f"s3://{bucket}/tags/runs/{runs[0]}/data"
    ):
        assert process.poll() is None
    gateway.down()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    gateway.up()
    process.communicate(timeout=240)
    assert process.returncode == 0
    tags = ledger.latest(f"s3://{bucket}/tags", ["uri"])
    assert Counter(tags["uri"].to_pylist()) == {f"s3://{bucket}/in/{i}.wav": 9 for i in range(60)}
    (reject,) = [
        row
        for name in storage.names_in(f"s3://{bucket}/tags/runs/{runs[0]}/rejects")
        for row in parquet_files.read(f"s3://{bucket}/tags/runs/{runs[0]}/rejects/{name}").to_pylist()
    ]
    assert (reject["uri"], reject["error"]) == (f"s3://{bucket}/in/broken.wav", "DecodeError")


def recordings(table: str) -> set[str]:
    return {uri.rsplit("/", 1)[1] for uri in parquet_files.read(table, ["uri"])["uri"].to_pylist()}


@pytest.mark.heavy
def test_a_second_run_at_once_names_the_first(jobs: Jobs, checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(40):
        soundfile.write(tmp_path / "in" / f"{i}.wav", np.random.default_rng(i).normal(scale=0.1, size=RATE), RATE)
    flags = ("--input", str(tmp_path / "in"), "--checkpoint", checkpoint, "--output", str(tmp_path / "tags"))
    first = jobs.start("tag", *flags)
    while not (tmp_path / "tags" / "lock.json").exists():
        assert first.poll() is None
    second = jobs.run("tag", *flags)
    assert second.returncode == 2
    assert str(first.pid) in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert not (tmp_path / "tags" / "lock.json").exists()
