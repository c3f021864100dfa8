"""The jobs by `ray job submit` on a cluster of one node."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .conftest import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]

PROGRAMS = Path(sys.executable).parent
# The cluster listens to this machine alone, and plain HTTP requests ask it for a job's exit code.
ENVIRONMENT = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
NUMBERS = itertools.count()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running head node."""
    port = _free_port()
    # Ray's sockets lie below its temporary folder, whose path must be short.
    folder = f"/tmp/r{os.getpid()}"
    head = subprocess.Popen(
        [
            f"{PROGRAMS}/ray", "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={_free_port()}", f"--dashboard-port={port}", f"--temp-dir={folder}",
        ],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"ray start ended with {head.wait(timeout=0.5)}")
    yield f"http://127.0.0.1:{port}"
    head.terminate()
    head.wait(timeout=60)


def submit(dashboard: str, *words: str) -> tuple[str, int | None, str]:
    """Submit a job and wait for its end: status, the job's own exit code, its log."""
    name = f"job-{next(NUMBERS)}"
    subprocess.run(
        [
            f"{PROGRAMS}/ray", "job", "submit", "--address", dashboard, "--submission-id", name,
            "--working-dir", ".", "--", "python", *words,
        ],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    with urllib.request.urlopen(f"{dashboard}/api/jobs/{name}", timeout=30) as answer:
        info = json.load(answer)
    with urllib.request.urlopen(f"{dashboard}/api/jobs/{name}/logs", timeout=30) as answer:
        return info["status"], info["driver_exit_code"], json.load(answer)["logs"]


def test_every_job_and_its_exit_codes(dashboard: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3000), ("low", 300)):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for i in range(8):
            sound = np.sin(2 * np.pi * hz * np.arange(8_000) / 8_000) + rng.normal(scale=0.01, size=8_000)
            soundfile.write(tmp_path / "clips" / label / f"{i}.wav", 0.5 * sound, 8_000)
    at = {name: str(tmp_path / name) for name in ("clips", "m.parquet", "shards", "train", "cv", "eval", "tags")}
    few = ("--epochs", "2", "--batch-size", "4")
    for words in (
        ("jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"], "--folds", "2"),
        ("jobs/extract.py", "--manifest", at["m.parquet"], "--output", at["shards"]),
        ("jobs/train.py", "--shards", at["shards"], "--output", at["train"], "--test-fold", "1", *few),
        ("jobs/evaluate.py", "--shards", at["shards"], "--checkpoint", at["train"], "--output", at["eval"]),
        ("jobs/crossval.py", "--shards", at["shards"], "--output", at["cv"], *few),
        ("jobs/tag.py", "--input", at["clips"], "--checkpoint", at["train"], "--output", at["tags"]),
    ):
        status, code, log = submit(dashboard, *words)
        assert (status, code) == ("SUCCEEDED", 0), log
    status, code, log = submit(dashboard, "jobs/extract.py", "--manifest", at["m.parquet"], "--no-such-flag", "1")
    assert (status, code) == ("FAILED", 2), log
    (tmp_path / "clips" / "low" / "broken.wav").write_bytes(b"no sound")
    submit(dashboard, "jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"])
    status, code, log = submit(
        dashboard, "jobs/extract.py", "--manifest", at["m.parquet"], "--output", at["shards"] + "2"
    )
    assert (status, code) == ("FAILED", 3), log
