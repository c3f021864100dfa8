"""A store that fails now and then, or for good, under a whole job."""

from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
import soundfile

from audioclf import parquet_files, shards, storage
from tests import fault_proxy
from tests.buckets import new_bucket
from tests.fault_proxy import PASSING, Fault, FaultProxy, randomly

from .conftest import Jobs

RATE = 8_000
CLIPS = 200


@pytest.fixture
def bucket(gateway: FaultProxy, tmp_path: Path) -> str:
    """A bucket with clips, and a manifest of them."""
    client, name = boto3.client("s3"), new_bucket()
    for i in range(CLIPS):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.random.default_rng(i).normal(scale=0.1, size=RATE // 2), RATE)
        client.upload_file(str(path), name, f"clips/x/{i}.wav")
    Jobs().succeed("manifest", "--input", f"s3://{name}/clips", "--output", f"s3://{name}/m.parquet")
    return name


def rows(run: str) -> pa.Table:
    tables = [parquet_files.read(uri).replace_schema_metadata() for uri in shards.committed_files(run)]
    return pa.concat_tables(tables).sort_by("clip_id").combine_chunks()


@pytest.mark.heavy
def test_a_store_with_many_faults_gives_the_same_rows(gateway: FaultProxy, bucket: str) -> None:
    flags = ("--manifest", f"s3://{bucket}/m.parquet", "--segment-s", "0.5", "--unit-segments", "20")
    Jobs().succeed("extract", *flags, "--output", f"s3://{bucket}/quiet")
    before = gateway.requests
    gateway.faults = randomly(0.15, seed=0, faults=PASSING)
    Jobs().succeed("extract", *flags, "--output", f"s3://{bucket}/faulty")
    gateway.faults = lambda index, method, path: None
    assert gateway.requests - before > CLIPS * 1.1  # there were some
    assert rows(f"s3://{bucket}/faulty").equals(rows(f"s3://{bucket}/quiet"))
    assert storage.names_in(f"s3://{bucket}/faulty/rejects") == {}


@pytest.mark.heavy
def test_a_store_that_goes_away_for_good_stops_the_job_and_keeps_what_is_done(gateway: FaultProxy, bucket: str) -> None:
    flags = ("--manifest", f"s3://{bucket}/m.parquet", "--segment-s", "0.5", "--unit-segments", "5")
    output = f"s3://{bucket}/gone"
    process = Jobs().start("extract", *flags, "--output", output)
    while len(storage.names_in(f"{output}/data")) < 3:
        assert process.poll() is None
    gateway.down()
    _, said = process.communicate(timeout=240)
    gateway.up()
    assert process.returncode == 1
    assert "StorageError" in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    done = storage.names_in(f"{output}/data")
    assert 3 <= len(done) < CLIPS // 5
    again = Jobs().succeed("extract", *flags, "--output", output)
    assert f"{len(done)} of them done before" in again
    assert len(rows(output)) == CLIPS


@pytest.mark.heavy
def test_one_object_that_may_not_be_read_is_rejected_and_all_of_them_stop_the_job(
    gateway: FaultProxy, bucket: str
) -> None:
    denied = fault_proxy.refusal(403, "AccessDenied")

    def one(index: int, method: str, path: str) -> Fault | None:
        return denied if path.endswith("/7.wav") else None

    def all_clips(index: int, method: str, path: str) -> Fault | None:
        return denied if path.endswith(".wav") else None

    flags = ("--manifest", f"s3://{bucket}/m.parquet", "--segment-s", "0.5", "--unit-segments", "20")
    gateway.faults = one
    said = Jobs().succeed("extract", *flags, "--output", f"s3://{bucket}/one")
    assert f"s3://{bucket}/clips/x/7.wav: UnreadableClipError: access denied, though it reads others" in said
    assert len(rows(f"s3://{bucket}/one")) == CLIPS - 1
    gateway.faults = all_clips
    stopped = Jobs().run("extract", *flags, "--output", f"s3://{bucket}/all")
    assert stopped.returncode == 1
    assert "AccessDeniedError" in stopped.stderr
    assert "give them the right" in stopped.stderr
    assert "Ray" not in stopped.stderr  # before anything was started
