"""Many clips that take no room, and jobs run on them as a user runs them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

ROOT = Path(__file__).parents[1]
RATE, SECONDS = 44_100, 5


def hard_linked_clips(folder: Path, n: int) -> Path:
    """n clips of 5 s, 16-bit mono at 44.1 kHz, all one file, below folder/noise."""
    below = folder / "noise"
    below.mkdir(parents=True, exist_ok=True)
    first = below / "0000000.wav"
    if not first.exists():
        samples = np.random.default_rng(0).normal(scale=0.1, size=RATE * SECONDS)
        soundfile.write(first, samples, RATE, subtype="PCM_16")
    for i in range(1, n):
        path = below / f"{i:07d}.wav"
        if not path.exists():
            os.link(first, path)
    return folder


def run_job(name: str, *flags: str, environment: dict[str, str] | None = None) -> None:
    """Run a job that must end well, in silence."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *flags],
        env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"jobs/{name}.py: exit {done.returncode}\n{done.stderr}")


@dataclass(frozen=True)
class Extraction:
    """A finished extraction.

    Attributes:
        this_run: of its summary.
        driver_peak_mb, worker_peak_mb: resident memory of the driver and of the largest worker.
        worker_cpu_s: CPU seconds of each worker.
    """

    this_run: dict[str, Any]
    driver_peak_mb: float
    worker_peak_mb: float
    worker_cpu_s: list[float]

    @property
    def clips_per_s(self) -> float:
        return self.this_run["clips_per_s"]


def extract(manifest: Path, output: Path, *flags: str, watched: bool = True) -> Extraction:
    """Run jobs/extract.py; watched: see what memory its processes take, which costs some percent of a core."""
    command = [sys.executable, str(ROOT / "jobs" / "extract.py"), "--manifest", str(manifest), "--output", str(output)]
    process = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    driver = psutil.Process(process.pid)
    driver_peak, worker_peak, cpu_s = 0.0, 0.0, dict[int, float]()
    while watched and process.poll() is None:
        with contextlib.suppress(psutil.Error):  # a process that ended between the listing and the look
            driver_peak = max(driver_peak, driver.memory_info().rss / 1e6)
            for worker in _workers(driver):
                worker_peak = max(worker_peak, worker.memory_info().rss / 1e6)
                cpu_s[worker.pid] = sum(worker.cpu_times()[:2])
        time.sleep(0.5)
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"jobs/extract.py: exit {process.returncode}\n{said}")
    summary = json.loads((output / "summary.json").read_text())
    return Extraction(summary["this_run"], driver_peak, worker_peak, list(cpu_s.values()))


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    return [child for child in driver.children(recursive=True) if "MapWorker" in " ".join(child.cmdline())]
