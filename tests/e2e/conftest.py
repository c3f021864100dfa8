"""Jobs as processes of their own, on local files and on an S3 server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from audioclf import s3
from tests.buckets import use_store
from tests.fault_proxy import FaultProxy

ROOT = Path(__file__).parents[2]


@dataclass
class Jobs:
    """Starts jobs of this checkout with an environment."""

    environment: dict[str, str] = field(default_factory=dict)

    def command(self, name: str, *flags: str) -> list[str]:
        return [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *flags]

    def start(self, name: str, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(name, *flags), env=self._environment(), stderr=subprocess.PIPE, text=True)

    def run(self, name: str, *flags: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(name, *flags),
            env=self._environment(), capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def succeed(self, name: str, *flags: str) -> str:
        """Run a job that must end well; gives what it logged."""
        done = self.run(name, *flags)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def _environment(self) -> dict[str, str]:
        # A cluster of the test session is not these jobs' cluster.
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        return {**inherited, **self.environment}


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The AWS variables of an S3 server on loopback: moto's, or a real one if AUDIOCLF_TEST_S3=1."""
    if os.environ.get("AUDIOCLF_TEST_S3") == "1":
        yield from _ceph(tmp_path_factory.mktemp("ceph"))
        return
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


@pytest.fixture
def gateway(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """What stands between the jobs and the store, and can be taken away; this process goes through it too."""
    with FaultProxy(s3_environment["AWS_ENDPOINT_URL"]) as proxy:
        use_store({**s3_environment, "AWS_ENDPOINT_URL": proxy.endpoint}, monkeypatch)
        yield proxy
    s3.client.cache_clear()


def _ceph(folder: Path) -> Iterator[dict[str, str]]:
    shared = Path(os.environ.get("AUDIOCLF_SHARED", ROOT.parent / "shared"))
    program = shared / "s3" / "ceph-s3"
    if not program.exists():
        pytest.skip(f"AUDIOCLF_TEST_S3=1, but there is no {program.name} in AUDIOCLF_SHARED")
    started = subprocess.run(
        [str(program), "start", str(folder), "7490"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        check=True,
    )
    last = started.stdout.strip().splitlines()[-1]
    yield dict(word.split("=", 1) for word in last.split() if "=" in word)
    subprocess.run([str(program), "stop", str(folder)], timeout=60, check=True)
