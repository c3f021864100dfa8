"""Extraction with augmented copies as a user runs it: always the same, and stopped where there is no engine."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from .conftest import Jobs

RATE = 16_000
UNITS = 24


@pytest.fixture
def prepared(jobs: Jobs, tmp_path: Path) -> tuple[str, ...]:
    """The extraction's flags but for --output: 48 clips of 0.4 s, in units of two, ten rows a clip."""
    rng = np.random.default_rng(0)
    for name, n in (("clips/noise", 48), ("backgrounds", 2)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(n):
            soundfile.write(tmp_path / name / f"{i}.wav", rng.normal(scale=0.1, size=round(0.4 * RATE)), RATE)
    manifest = str(tmp_path / "m.parquet")
    jobs.succeed("manifest", "--input", str(tmp_path / "clips"), "--output", manifest)
    return (
        "extract", "--manifest", manifest, "--segment-s", "0.4", "--copies", "3", "--unit-segments", "2",
        "--augment", "stretch-pitch", "bg", "noise", "--backgrounds", str(tmp_path / "backgrounds"),
    )  # fmt: skip


def files(run: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(run, "data").glob("unit-*")}


def rows(run: str) -> pa.Table:
    table = pq.read_table(Path(run, "data"))
    return table.sort_by([("clip_id", "ascending"), ("copy_index", "ascending")]).replace_schema_metadata()


@pytest.mark.heavy
def test_copies_are_the_same_whatever_the_workers_units_and_kills(
    jobs: Jobs, prepared: tuple[str, ...], tmp_path: Path
) -> None:
    undisturbed, killed, otherwise = (str(tmp_path / name) for name in ("undisturbed", "killed", "otherwise"))
    jobs.succeed(*prepared, "--num-actors", "2", "--output", undisturbed)
    assert pq.read_table(Path(undisturbed, "data")).num_rows == 48 * 10
    process = jobs.start(*prepared, "--num-actors", "1", "--output", killed)
    while len(files(killed)) < UNITS // 4:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            pytest.fail("extract ended before a quarter of its units was there")
    process.kill()
    process.communicate(timeout=60)
    assert len(files(killed)) < UNITS, "the driver was not killed half-way"
    jobs.succeed(*prepared, "--num-actors", "2", "--output", killed)
    assert files(killed) == files(undisturbed)
    jobs.succeed(*prepared, "--unit-segments", "7", "--output", otherwise)
    assert rows(otherwise).equals(rows(undisturbed))


@pytest.mark.heavy
def test_a_machine_without_the_program_stops_the_job_with_its_name(
    jobs: Jobs, prepared: tuple[str, ...], tmp_path: Path
) -> None:
    """The driver finds a program that runs, the workers after it one that does not."""
    found = tmp_path / "bin" / "rubberband"
    found.parent.mkdir()
    found.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/asked 2>/dev/null || exit 1\nexec {shutil.which("rubberband")} "$@"\n'
    )
    found.chmod(0o755)
    jobs.environment["PATH"] = f"{found.parent}:{os.environ['PATH']}"
    run = str(tmp_path / "run")
    done = jobs.run(*prepared, "--output", run)
    assert done.returncode == 1, done.stderr
    assert f"the rubberband program ends with exit code 1 on {socket.gethostname()}; install it" in done.stderr
    assert "run the same command again" in done.stderr
    assert not files(run)
    done = jobs.run(*prepared, "--output", run)  # now the driver finds it
    assert done.returncode == 2
    assert "apt-get install rubberband-cli" in done.stderr
    del jobs.environment["PATH"]
    jobs.succeed(*prepared, "--output", run)
    assert json.loads(Path(run, "summary.json").read_text())["total"]["copies"]["written"] == 48 * 9
