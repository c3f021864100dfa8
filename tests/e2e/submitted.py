"""Nodes of a Ray cluster on this machine, each a process of its own, and jobs submitted to them."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import ROOT

PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
    # The cluster listens to this machine alone, and plain HTTP requests ask it for a job's exit code.
    "RAY_AUTH_MODE": "disabled",
    # A dead node is noticed after ten seconds instead of half a minute; fewer, and a busy machine's nodes look dead.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "10",
    "RAY_metrics_report_interval_ms": "500",  # instead of 10 s
}
NUMBERS = itertools.count()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Node:
    """A raylet with a temporary folder of its own.

    Args:
        flags: of `ray start`.
    """

    def __init__(self, *flags: str):
        # Ray's sockets lie below its temporary folder, whose path must be short.
        self.folder = f"/tmp/r{os.getpid()}-{next(NUMBERS)}"
        self._process = subprocess.Popen(
            [
                f"{PROGRAMS}/ray", "start", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1",
                # Jobs are submitted through its agent, whose usual port another cluster on this machine may have.
                f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={self.folder}", *flags,
            ],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def require_alive(self) -> None:
        if self._process.poll() is not None:
            pytest.fail(f"ray start ended with {self._process.returncode}")

    def kill(self) -> None:
        """Everything on it dies at once, as when a spot instance is taken away."""
        processes = [*psutil.Process(self._process.pid).children(recursive=True), psutil.Process(self._process.pid)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A head node, and those that join it.

    Args:
        flags: of the head's `ray start`.

    Attributes:
        dashboard: its address, where jobs are submitted.
        metrics: of the head, where Prometheus asks.
    """

    def __init__(self, *flags: str):
        port, metrics, self._port = free_port(), free_port(), free_port()
        self.dashboard = f"http://127.0.0.1:{port}"
        self.metrics = f"http://127.0.0.1:{metrics}"
        ports = f"--port={self._port}", f"--dashboard-port={port}", f"--metrics-export-port={metrics}"
        self._head = Node("--head", *ports, *flags)
        self._joined: list[Node] = []
        self._wait_for(lambda: self._get("/api/jobs/") is not None, "the dashboard")

    def join(self, *flags: str) -> Node:
        """Another node, once the cluster knows it."""
        node = Node(f"--address=127.0.0.1:{self._port}", *flags)
        self._joined.append(node)
        self._wait_for(self._is_complete, "the second node")
        return node

    @property
    def last(self) -> Node:
        """The node that joined last."""
        return self._joined[-1]

    def lose(self, node: Node) -> None:
        """Kill a node and wait until the cluster has noticed."""
        node.kill()
        self._joined.remove(node)
        self._wait_for(self._is_complete, "the loss of a node")

    def stop(self) -> None:
        for node in (*self._joined, self._head):
            node.stop()

    def start(self, *words: str, working_dir: Path | str = ".", cwd: Path = ROOT) -> str:
        """Submit a job; gives its id."""
        name = f"job-{next(NUMBERS)}"
        command = [
            f"{PROGRAMS}/ray", "job", "submit", "--address", self.dashboard, "--submission-id", name, "--no-wait",
            "--working-dir", str(working_dir), "--", "python", *words,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    def end_of(self, name: str, timeout_s: float = 400) -> tuple[str, int | None, str]:
        """Wait for a job's end: status, its own exit code, its log."""
        deadline = time.monotonic() + timeout_s
        while (info := self._get(f"/api/jobs/{name}")) is None or info["status"] in ("PENDING", "RUNNING"):
            assert time.monotonic() < deadline, f"{name} does not end: {self.log_of(name)[-3000:]}"
            time.sleep(0.5)  # between two questions
        return info["status"], info["driver_exit_code"], self.log_of(name)

    def log_of(self, name: str) -> str:
        return (self._get(f"/api/jobs/{name}/logs") or {}).get("logs", "")

    def is_running(self, name: str) -> bool:
        return (self._get(f"/api/jobs/{name}") or {}).get("status") in ("PENDING", "RUNNING")

    def ask_to_stop(self, name: str) -> None:
        """What `ray job stop` asks for."""
        request = urllib.request.Request(f"{self.dashboard}/api/jobs/{name}/stop", method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass

    def _is_complete(self) -> bool:
        """Whether the cluster sees the nodes that there are, and no others."""
        nodes = (self._get("/nodes?view=summary") or {}).get("data", {}).get("summary", [])
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes) == 1 + len(self._joined)

    def _get(self, path: str) -> Any:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.dashboard}{path}", timeout=30) as answer:
            return json.load(answer)
        return None

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            self._head.require_alive()
            assert time.monotonic() < deadline, f"{what} does not come"
            time.sleep(0.2)  # between two questions
