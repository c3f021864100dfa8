"""Networks to train → their checkpoints, by Ray Train, several side by side: the driver's half."""

import logging
import threading
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayError
from ray.train import TrainingFailedError

from audioclf import s3, storage
from audioclf.errors import ConfigError, StorageError
from audioclf.pipelines import cluster
from audioclf.pipelines.board import Board
from audioclf.pipelines.train_loop import TrainJob, train_loop

log = logging.getLogger("audioclf")

STATE_FOLDER = "training_state"
"""Below a training run: Ray Train's checkpoints, from which a killed run goes on; removed at the end."""
RESIZE_EVERY_S = 600.0
"""How often an elastic training looks whether there is room for more workers: each change costs the epoch at hand."""

S3_ATTEMPTS = 10
"""With growing pauses between them, about as long as s3.PATIENCE lasts."""

REPORT_EVERY_S = 10.0


def trainings_at_once(jobs: Sequence[TrainJob]) -> int:
    """How many trainings of one kind fit on the cluster side by side, of as many as there are."""
    cluster.connect()
    slots = cluster.gpus() if jobs[0].use_gpu else cluster.cpus()
    return max(1, min(len(jobs), slots // max(1, jobs[0].num_workers)))


def run_trainings(jobs: list[TrainJob], at_once: int) -> None:
    """Train several networks, so many side by side, and show how they get on.

    Raises:
        ConfigError: this machine has too few CPUs or GPUs for one of them.
        AudioclfError: as raised in a worker.
    """
    cluster.connect()
    _require_room(jobs[0])
    log.info("%d to train, %d at once; their workers start", len(jobs), min(at_once, len(jobs)))
    board: Any = ray.remote(Board).options(**cluster.beside_driver()).remote()
    waiting, running = list(jobs), dict[Future[None], TrainJob]()
    with cluster.waiting_told("1 GPU" if jobs[0].use_gpu else "1 CPU") as begun:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[_start(job, board, at_once)] = job
            done, _ = futures.wait(running, timeout=REPORT_EVERY_S, return_when=futures.FIRST_COMPLETED)
            for future in done:
                try:
                    future.result()
                except (RayError, TrainingFailedError) as error:
                    raise _told(error, running[future]) from error
            names = {job.name for job in running.values()}
            said, latest = ray.get(board.latest.remote())
            for words in said:
                begun()
                log.info("%s", words)
            for name, epochs, metrics in latest:
                if name in names:
                    log.info("%s: epoch %d/%d, loss %.4f", name, metrics["epoch"], epochs, metrics["loss"])
            for future in done:
                log.info("%s: trained, %d to go", running.pop(future).name, len(waiting) + len(running))


def _told(error: Exception, job: TrainJob) -> BaseException:
    """What went wrong: our own error, or that of the store which Ray Train keeps the state of a training in."""
    own = cluster.own_error(error)
    refused = next((cause for cause in cluster.causes(error) if isinstance(cause, OSError)), None)
    if own is not error or refused is None:
        return own
    output = storage.display(job.output_uri)
    return StorageError(f"{output}: the training's state can't be kept there: {refused.strerror or refused}")


def _require_room(job: TrainJob) -> None:
    """Raise ConfigError where Ray Train would wait for ever; where nodes are started on demand, say that it waits."""
    kind, slots = ("GPU", cluster.gpus()) if job.use_gpu else ("CPU", cluster.cpus())
    needed = job.min_workers or max(1, job.num_workers)
    if needed <= slots:
        return
    if cluster.may_grow():
        log.info("waiting for %d %ss for training workers; the cluster has %d now", needed, kind, slots)
        return
    flags = "--use-gpu" if job.use_gpu else "--num-workers" if job.min_workers is None else "--min-workers"
    raise ConfigError(
        f"{flags}: {needed} training workers take a {kind} each, and this machine has {slots}: "
        + ("drop it, or give fewer --num-workers" if job.use_gpu else "give fewer")
    )


def _start(job: TrainJob, board: Any, at_once: int) -> Future[None]:
    """Train in a thread that ends with this process, unlike those of an executor, which an exit would wait for."""
    future: Future[None] = Future()

    def fit() -> None:
        try:
            future.set_result(_fit(job, board, at_once))
        except BaseException as error:  # noqa: BLE001 told where the future is asked
            future.set_exception(error)

    threading.Thread(target=fit, name=job.name, daemon=True).start()
    return future


def _fit(job: TrainJob, board: Any, at_once: int) -> None:
    """Run Ray Train to the end of one job, going on where an earlier attempt stopped."""
    filesystem, path = _filesystem(job.output_uri)
    resources = {"GPU": 1} if job.use_gpu else {"CPU": 1}  # or CPU work beside it could leave a GPU idle
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"job": job, "board": board, "at_once": at_once},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(job.min_workers, job.num_workers) if job.min_workers else job.num_workers,
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
            use_gpu=job.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            name=STATE_FOLDER,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=3),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    trainer.fit()
    state = f"{path}/{STATE_FOLDER}"
    if filesystem.get_file_info(state).type != pyarrow.fs.FileType.NotFound:  # without workers nothing is saved
        filesystem.delete_dir(state)


def _filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """What Ray Train writes through, and the path in it. On S3 it sees the same AWS variables as storage.py."""
    path = storage.local_path(uri)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        return pyarrow.fs.LocalFileSystem(), str(path)
    return _PatientS3(s3.pyarrow_options(uri)), uri.removeprefix("s3://")


class _PatientS3(pyarrow.fs.S3FileSystem):
    """As patient wherever it travels: Arrow's own forgets how often it is to try."""

    def __init__(self, options: dict[str, str]):
        self._options = options
        super().__init__(retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(S3_ATTEMPTS), **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _PatientS3, (self._options,)
