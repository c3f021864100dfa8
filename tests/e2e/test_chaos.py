"""One extraction on a cluster of two nodes whose parts die at random: the result is that of an undisturbed run."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import boto3
import numpy as np
import psutil
import pyarrow as pa
import pytest
import soundfile

from audioclf import parquet_files, rundir, storage
from tests.fault_proxy import FaultProxy

from .conftest import Jobs

RATE = 8_000
CLIPS, UNIT_SEGMENTS = 3_000, 20
KILLS = 24
KINDS = ("worker", "driver", "raylet", "gateway")
BETWEEN_UNITS = (1, 4)
"""Units committed between one kill and the next."""
GATEWAY_GONE_S = (2.0, 8.0)


@pytest.fixture
def clips(gateway: FaultProxy, tmp_path) -> str:
    """A bucket of clips, a few of them no sound."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="chaos")
    bodies = []
    for i in range(10):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, np.random.default_rng(i).normal(scale=0.1, size=RATE // 2), RATE)
        bodies.append(path.read_bytes())

    def put(i: int) -> None:
        body = b"no sound" if i % 97 == 0 else bodies[i % 10]
        client.put_object(Bucket="chaos", Key=f"clips/x/{i:05d}.wav", Body=body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(CLIPS)))
    return "s3://chaos/clips"


@dataclass
class Nodes:
    """A cluster of two nodes on this machine; the second one may die."""

    cluster: object
    second: object
    jobs: Jobs = field(default_factory=Jobs)


@pytest.fixture
def nodes(gateway: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    from ray.cluster_utils import Cluster

    # A dead node is noticed after some seconds instead of half a minute.
    monkeypatch.setenv("RAY_health_check_initial_delay_ms", "1000")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    found = Nodes(cluster, cluster.add_node(num_cpus=1))
    found.jobs.environment = {"RAY_ADDRESS": str(cluster.address)}
    yield found
    cluster.shutdown()


def rows(run: str) -> tuple[pa.Table, pa.Table]:
    """What was written and what was rejected, in one order."""
    tables = []
    for kind in (rundir.DATA, rundir.REJECTS):
        names = sorted(storage.names_in(f"{run}/{kind}"))
        table = pa.concat_tables(
            [parquet_files.read(f"{run}/{kind}/{name}").replace_schema_metadata() for name in names]
        )
        tables.append(table.sort_by("clip_id").combine_chunks())
    return tables[0], tables[1]


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_kills_of_every_kind_change_nothing(nodes: Nodes, gateway: FaultProxy, clips: str) -> None:
    jobs = nodes.jobs
    manifest = "s3://chaos/m.parquet"
    jobs.succeed("manifest", "--input", clips, "--output", manifest)
    flags = ("--manifest", manifest, "--segment-s", "0.5", "--unit-segments", str(UNIT_SEGMENTS), "--num-actors", "2")
    jobs.succeed("extract", *flags, "--output", "s3://chaos/undisturbed")
    expected = rows("s3://chaos/undisturbed")
    assert len(expected[1]) == len(range(0, CLIPS, 97))

    rng = random.Random(0)
    disturbed = "s3://chaos/disturbed"
    killed = dict.fromkeys(KINDS, 0)
    process = jobs.start("extract", *flags, "--output", disturbed)
    try:
        for i in range(KILLS):
            process = _until_progress(disturbed, rng.randint(*BETWEEN_UNITS), process, jobs, flags)
            kind = KINDS[i] if i < len(KINDS) else rng.choice(KINDS)
            process = _kill(kind, nodes, gateway, process, rng, lambda: _start(jobs, flags, disturbed))
            killed[kind] += 1
        assert not storage.exists(f"{disturbed}/_SUCCESS"), "the job was done before the last kill"
        _, said = process.communicate(timeout=900)
    finally:
        process.kill()
    if process.returncode:  # the last kill may have ended it
        said = jobs.succeed("extract", *flags, "--output", disturbed)
    print(f"\nkilled: {killed}\n{said}")
    assert sum(killed.values()) == KILLS >= 20
    assert json.loads(storage.read_text(f"{disturbed}/summary.json"))["status"] == "ok"
    found = rows(disturbed)
    assert found[0].equals(expected[0])
    assert found[1].equals(expected[1])


def _start(jobs: Jobs, flags: tuple[str, ...], output: str) -> subprocess.Popen[str]:
    return jobs.start("extract", *flags, "--output", output)


def _until_progress(
    output: str, units: int, process: subprocess.Popen[str], jobs: Jobs, flags: tuple[str, ...]
) -> subprocess.Popen[str]:
    """Wait until so many more units are committed; a job that a kill has ended is started again, as its user would."""
    wanted = _committed(output) + units
    deadline = time.monotonic() + 300
    while _committed(output) < wanted:
        assert time.monotonic() < deadline, "no progress"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)
            said = process.stderr.read() if process.stderr else ""
            assert process.returncode == 1, f"exit {process.returncode} before the last kill\n{said}"
            assert "run the same command again" in said
            process = _start(jobs, flags, output)
    return process


def _committed(output: str) -> int:
    return len(storage.names_in(f"{output}/{rundir.DATA}"))


def _kill(
    kind: str,
    nodes: Nodes,
    gateway: FaultProxy,
    process: subprocess.Popen[str],
    rng: random.Random,
    start: Callable[[], subprocess.Popen[str]],
) -> subprocess.Popen[str]:
    match kind:
        case "worker":
            pids = _worker_pids()
            if pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
        case "driver":
            process.kill()
            process.communicate(timeout=60)
            return start()
        case "raylet":
            nodes.cluster.remove_node(nodes.second, allow_graceful=False)  # pyright: ignore[reportAttributeAccessIssue]
            nodes.second = nodes.cluster.add_node(num_cpus=1)  # pyright: ignore[reportAttributeAccessIssue]
        case "gateway":
            gateway.down()
            time.sleep(rng.uniform(*GATEWAY_GONE_S))  # how long it is gone, not a wait for something
            gateway.up()
    return process


def _worker_pids() -> list[int]:
    """Processes of the actor pool, of this test's nodes alone: they are below this process."""
    below = psutil.Process().children(recursive=True)
    found = []
    for child in below:
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found
