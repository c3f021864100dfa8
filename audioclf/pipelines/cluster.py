"""The Ray cluster a job runs on: the one it was submitted to, or one started here for the job."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from audioclf import malloc
from audioclf.errors import AudioclfError, ClusterError
from audioclf.pipelines import cluster_address

# Before Ray is imported: nothing calls home, and Ray's own progress leaves the terminal to ours.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
# Ray's core prints an error line for every actor pool of Ray Data (ray-project/ray#53727); nothing else is lost.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ray Train takes one report of its workers each time it looks: every 2 s, an epoch of a small set waits for that.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("audioclf")

WAIT_TOLD_S = 60.0
"""After which without a result it is told what the cluster has."""

WORKERS_ENVIRONMENT = {
    # pyarrow's S3 client, which Ray Train writes through, otherwise appends checksums that other stores than AWS refuse
    # (Ceph: HTTP 411).
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "GLIBC_TUNABLES": malloc.REUSED,
}
"""Of every process that a job starts, unless the user has set it; the driver itself began without."""


def connect(num_cpus: int | None = None, num_gpus: int | None = None) -> None:
    """Connect to Ray, or start it here; once a process, and only when there is work for it.

    Args:
        num_cpus, num_gpus: of a cluster started here; default: all there are.

    Raises:
        ClusterError: it does not start, or nothing answers at the address of the cluster that it is to run on.
    """
    if ray.is_initialized():
        return
    began, address = time.monotonic(), cluster_address.named()
    if address:
        cluster_address.require(address)
    log.info("Ray is being started" if address is None else "connecting to Ray at %s", *filter(None, [address]))
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    submitted = may_grow()
    ours = {name: value for name, value in WORKERS_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    if not submitted:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less; nobody takes this node
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=None if submitted else False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": ours} if submitted and ours else None,  # processes started here inherit it
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        fault = " ".join(str(error).split())
        raise cluster_address.unreachable(address, fault) if address else _not_started(fault) from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own prints a stack and aborts
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    log.info("Ray ready: %d CPUs, %d GPUs (%.0f s)", cpus(), gpus(), time.monotonic() - began)


def _not_started(fault: str) -> ClusterError:
    return ClusterError(
        f"Ray did not start on this machine: {fault}; check that others leave it processors, memory and /dev/shm, and "
        "that RAY_TMPDIR, where it is set, is a short path; Ray's own words are in its session_latest/logs, usually of "
        "/tmp/ray"
    )


@contextlib.contextmanager
def waiting_told(takes: str) -> Iterator[Callable[[], object]]:
    """Say what the cluster has free if, in the with-block, nothing is done for a while: Ray waits without a word for
    what it does not have, and may never get.

    Args:
        takes: what a worker does, in words.

    Yields:
        What is to be called once something is done.
    """
    timer = threading.Timer(WAIT_TOLD_S, _tell_of_waiting, [takes])
    timer.daemon = True
    if may_grow():  # elsewhere what is lacking was told before
        timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()


def _tell_of_waiting(takes: str) -> None:
    free, there = ray.available_resources(), ray.cluster_resources()
    has = ", ".join(
        f"{free.get(name, 0) / unit:,.0f} of {there[name] / unit:,.0f} {noun}"
        for name, unit, noun in (("CPU", 1, "CPUs"), ("GPU", 1, "GPUs"), ("memory", 1e6, "MB"))
        if name in there
    )
    log.warning(
        "nothing is done yet after %.0f s; free in the cluster: %s; a worker takes %s; `ray status` tells what is "
        "waited for",
        WAIT_TOLD_S, has, takes,
    )  # fmt: skip


def beside_driver() -> dict[str, Any]:
    """Options of a small actor that must live as long as the job: on its own node, no spot instance's."""
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": node}


def cpus() -> int:
    """CPU cores of the cluster as it is now; an autoscaled one may grow."""
    return int(ray.cluster_resources().get("CPU", 0))


def gpus() -> int:
    """GPUs of the cluster as it is now."""
    return int(ray.cluster_resources().get("GPU", 0))


def may_grow() -> bool:
    """Whether it is one that the job was submitted to: nodes may be started on demand."""
    return cluster_address.named() is not None


def memory_mb() -> int:
    """Memory of the cluster that workers may ask for (MB)."""
    return int(ray.cluster_resources().get("memory", 0) / 1e6)


def own_error(error: BaseException) -> BaseException:
    """The AudioclfError that Ray wrapped, or the error itself."""
    return next((cause for cause in causes(error) if isinstance(cause, AudioclfError)), error)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that Ray wrapped in it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        cause = waiting.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [getattr(cause, "cause", None), cause.__cause__]
        # Ray Train: what failed beside the workers, and one error a failed worker
        waiting += [getattr(cause, "controller_failure", None), *getattr(cause, "worker_failures", {}).values()]
