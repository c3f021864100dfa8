"""The jobs as a user runs them: flags in, files and exit codes out."""

import contextlib
import json
import socket
import subprocess
from pathlib import Path

import boto3
import numpy as np
import pytest
import soundfile

from audioclf import parquet_files, storage
from tests.buckets import use_store

from .conftest import Jobs

RATE = 16_000


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Sixteen clips of two classes."""
    folder = tmp_path / "clips"
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3000), ("low", 300)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            time = np.arange(RATE) / RATE
            sound = 0.5 * np.sin(2 * np.pi * hz * time) + rng.normal(scale=0.01, size=RATE)
            soundfile.write(folder / label / f"{i}.wav", sound, RATE)
    return folder


@pytest.mark.parametrize(
    ("job", "flags", "says"),
    [
        ("extract", ["--manifest", "x", "--outptu", "y"], "--outptu"),
        ("extract", ["--manifest", "absent.parquet", "--output", "y"], "absent.parquet: no such file"),
        ("extract", ["--manifest", "x", "--output", "y", "--copies", "0"], "--copies must be 1 or more"),
        ("manifest", ["--input", "absent", "--output", "y"], "absent: no such folder"),
        ("manifest", ["--input", "jobs", "--output", "y", "--layout", "flat"], "no audio file below it"),
        ("train", ["--shards", "absent", "--output", "y"], "absent: not a run directory of jobs/extract.py"),
        ("tag", ["--input", "jobs", "--checkpoint", "absent", "--output", "y"], "no checkpoint here"),
        ("evaluate", ["--shards", "x", "--checkpoint", "absent", "--output", "y"], "no checkpoint here"),
    ],
)
def test_bad_usage_exits_2_and_says_what_is_wrong(
    jobs: Jobs, job: str, flags: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    done = jobs.run(job, *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_store_exits_1_and_says_how_to_go_on(jobs: Jobs, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = unused.getsockname()[1]
        jobs.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        done = jobs.run("manifest", "--input", "s3://bucket/clips", "--output", str(tmp_path / "m.parquet"))
    assert done.returncode == 1
    assert "check AWS_ENDPOINT_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ray_that_does_not_start_exits_1_and_says_what_to_check(jobs: Jobs, clips: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.parquet"
    jobs.succeed("manifest", "--input", str(clips), "--output", str(manifest))
    jobs.environment = {"RAY_TMPDIR": str(tmp_path / ("x" * 120))}  # too long for a socket's address
    done = jobs.run("extract", "--manifest", str(manifest), "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "Ray did not start" in done.stderr
    assert "RAY_TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_many_rejects_exit_3(jobs: Jobs, clips: Path, tmp_path: Path) -> None:
    for i in range(4):
        (clips / "low" / f"broken{i}.wav").write_bytes(b"no sound")
    jobs.succeed("manifest", "--input", str(clips), "--output", str(tmp_path / "m.parquet"))
    done = jobs.run("extract", "--manifest", str(tmp_path / "m.parquet"), "--output", str(tmp_path / "run"))
    assert done.returncode == 3
    assert "--max-reject-fraction" in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["total"]["clips"]["rejected"] == 4


@pytest.mark.heavy
def test_a_killed_driver_leaves_a_run_that_goes_on(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "clips" / "noise"
    folder.mkdir(parents=True)
    first = folder / "0.wav"
    soundfile.write(first, np.random.default_rng(0).normal(scale=0.1, size=RATE), RATE)
    for i in range(1, 6000):
        (folder / f"{i}.wav").hardlink_to(first)
    manifest, run, undisturbed = (str(tmp_path / name) for name in ("m.parquet", "run", "undisturbed"))
    jobs.succeed("manifest", "--input", str(folder.parent), "--output", manifest)
    flags = ("extract", "--manifest", manifest, "--segment-s", "1", "--unit-segments", "50", "--output")
    process = jobs.start(*flags, run)
    data = Path(run, "data")
    while len(list(data.glob("unit-*"))) < 30:  # a quarter of the 120 units
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            pytest.fail("extract ended before a quarter of its units was there")
    process.kill()
    process.communicate(timeout=60)
    before = {path.name: path.stat().st_mtime_ns for path in data.glob("unit-*")}
    assert 30 <= len(before) < 120, "the driver was not killed half-way"
    assert not Path(run, "_SUCCESS").exists()
    jobs.succeed(*flags, run)
    jobs.succeed(*flags, undisturbed)
    this_run = json.loads(Path(run, "summary.json").read_text())["this_run"]
    assert this_run["units"] <= 120 - len(before)
    after = {path.name: path for path in data.glob("unit-*")}
    assert {name: after[name].stat().st_mtime_ns for name in before} == before
    assert {name: path.read_bytes() for name, path in after.items()} == {
        path.name: path.read_bytes() for path in Path(undisturbed, "data").glob("unit-*")
    }


def test_the_whole_path_on_s3(
    s3_environment: dict[str, str], clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(s3_environment, monkeypatch)
    jobs = Jobs(s3_environment)
    client = boto3.client("s3")
    client.create_bucket(Bucket="e2e")
    for path in clips.glob("*/*.wav"):
        client.upload_file(str(path), "e2e", f"clips/{path.relative_to(clips)}")
    remote = "s3://e2e"
    jobs.succeed("manifest", "--input", f"{remote}/clips", "--output", f"{remote}/m.parquet", "--folds", "2")
    jobs.succeed("extract", "--manifest", f"{remote}/m.parquet", "--output", f"{remote}/shards")
    few = ("--epochs", "2", "--batch-size", "4")
    jobs.succeed("train", "--shards", f"{remote}/shards", "--output", f"{remote}/train", "--test-fold", "1", *few)
    jobs.succeed(
        "evaluate", "--shards", f"{remote}/shards", "--checkpoint", f"{remote}/train",
        "--output", f"{remote}/evaluation", "--test-fold", "1",
    )  # fmt: skip
    jobs.succeed("tag", "--input", f"{remote}/clips", "--checkpoint", f"{remote}/train", "--output", f"{remote}/tags")
    metrics = json.loads(storage.read_text(f"{remote}/evaluation/metrics.json"))
    assert metrics["clips"] == 8
    (run,) = storage.folders_in(f"{remote}/tags/runs")
    recordings = parquet_files.read(f"{remote}/tags/runs/{run}/recordings.parquet", ["uri"])
    tagged = {storage.display(uri) for uri in recordings["uri"].to_pylist()}
    assert tagged == {f"{remote}/clips/{path.relative_to(clips)}" for path in clips.glob("*/*.wav")}
