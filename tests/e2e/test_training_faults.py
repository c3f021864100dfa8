"""A training that is killed goes on where it was, and ends as if nothing had happened."""

import contextlib
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from audioclf import checkpoint

from .conftest import Jobs

RATE = 44_100


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """A training's flags but for --output: two workers, 25 epochs, with all that depends on random numbers."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "clips" / name).mkdir(parents=True)
        for i in range(12):
            soundfile.write(folder / "clips" / name / f"{i}.wav", rng.normal(scale=0.1, size=RATE), RATE)
    jobs, manifest, shards = Jobs(), str(folder / "m.parquet"), str(folder / "shards")
    jobs.succeed("manifest", "--input", str(folder / "clips"), "--output", manifest)
    jobs.succeed("extract", "--manifest", manifest, "--output", shards)
    return (
        "train", "--shards", shards, "--model", "crnn8-texture", "--epochs", "25", "--batch-size", "4",
        "--num-workers", "2", "--mixup-alpha", "0.3", "--roll-s", "0.1", "--ema", "0.9", "--warmup-epochs", "2",
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(flags: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    Jobs().succeed(*flags, "--output", str(output))
    return output


def _worker(driver: subprocess.Popen[str]) -> psutil.Process:
    """One of the two training workers."""
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                return process
    raise AssertionError("the driver has no training worker")


def _kill_worker(jobs: Jobs, driver: subprocess.Popen[str], command: tuple[str, ...]) -> None:
    _worker(driver).send_signal(signal.SIGKILL)
    _, log = driver.communicate(timeout=180)
    assert driver.returncode == 0, log


def _kill_driver(jobs: Jobs, driver: subprocess.Popen[str], command: tuple[str, ...]) -> None:
    driver.kill()
    driver.communicate(timeout=60)
    jobs.succeed(*command)


def _stop_driver(jobs: Jobs, driver: subprocess.Popen[str], command: tuple[str, ...]) -> None:
    driver.send_signal(signal.SIGTERM)  # as `ray job stop` does
    _, log = driver.communicate(timeout=60)
    assert driver.returncode == 130, log
    assert "run the same command again to go on" in log
    jobs.succeed(*command)


@pytest.mark.heavy
@pytest.mark.parametrize("kill", [_kill_worker, _kill_driver, _stop_driver])
def test_a_killed_training_goes_on_and_ends_as_the_undisturbed_one(
    kill: Callable[[Jobs, subprocess.Popen[str], tuple[str, ...]], None],
    jobs: Jobs,
    flags: tuple[str, ...],
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "run"
    command = (*flags, "--output", str(output))
    driver = jobs.start(*command)
    while not list((output / "training_state").glob("checkpoint_*")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=0.02)
            pytest.fail("the training ended before it was to be killed")
    assert not (output / "metrics.json").exists(), "the training ended before it was killed"
    kill(jobs, driver, command)
    assert (output / "metrics.json").read_text() == (undisturbed / "metrics.json").read_text()
    ends = [checkpoint.load(checkpoint.find(str(run))).weights_digest() for run in (output, undisturbed)]
    assert ends[0] == ends[1]
