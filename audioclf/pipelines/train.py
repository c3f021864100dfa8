"""Shards → a checkpoint, by Ray Train; also many at once, for cross-validation."""

import logging
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import TrainingFailedError

from audioclf import checkpoint, event_files, machine, memory, policy, rundir, s3, shards, storage, training
from audioclf.audio.frontend import FrontEnd
from audioclf.checkpoint import Checkpoint
from audioclf.config import TrainConfig, Training, training_of
from audioclf.errors import ConfigError, StorageError
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.pipelines import cluster, train_checks
from audioclf.pipelines.board import Board
from audioclf.pipelines.progress import log_written
from audioclf.policy import Policy
from audioclf.row_index import RowIndex, read_index
from audioclf.rundir import RunDirectory
from audioclf.training import Trainer
from audioclf.training_rows import MemoryRows, Rows, Share, StreamedRows

log = logging.getLogger("audioclf")

STATE_FOLDER = "training_state"
"""Below a training run: Ray Train's checkpoints, from which a killed run goes on; removed at the end."""
STATE_FILE = "state.pt"
RESIZE_EVERY_S = 600.0
"""How often an elastic training looks whether there is room for more workers: each change costs the epoch at hand."""

S3_ATTEMPTS = 10
"""With growing pauses between them, about as long as s3.PATIENCE lasts."""

REPORT_EVERY_S = 10.0


@dataclass(frozen=True)
class TrainJob:
    """One network to train; travels to the workers."""

    name: str
    shard_uris: tuple[str, ...]
    vocabulary: Vocabulary
    output_uri: str
    training: Training
    test_fold: int | None
    seed: int
    num_workers: int
    use_gpu: bool
    memory_mb: int | None
    """For the training rows of each worker; None: by the memory of its machine."""
    policy: Policy | None
    """Which copies are taken, and how often; None: originals and all copies alike."""
    min_workers: int | None = None
    """To train with where there is no room for all; None: wait for all."""


def run(config: TrainConfig) -> str:
    """Train one network on all folds but one."""
    storage.reach(*config.shards, config.output)
    shard_uris = tuple(storage.to_uri(uri) for uri in config.shards)
    extractions = rundir.bindings(shard_uris)
    chosen = policy.read(config.policy) if config.policy else None
    how = train_checks.check(shard_uris, training_of(config), config.test_fold, chosen)
    directory = RunDirectory(config.output)
    job = TrainJob(
        "train",
        shard_uris,
        Vocabulary.of(shards.all_labels(shard_uris)[0]),
        directory.uri,
        train_checks.portable(how),
        config.test_fold,
        config.seed,
        config.num_workers,
        config.use_gpu,
        config.memory_mb,
        chosen,
        config.min_workers,
    )
    binding = {
        "shards": extractions,
        **train_checks.binding(shard_uris, how),
        "policy": chosen.to_dict() if chosen else None,
        "test_fold": config.test_fold,
        "seed": config.seed,
    }
    if config.dry_run:
        directory.require("train", binding)
        log.info("train: would train %s for %d epochs into %s", how.model, how.epochs, directory)
        return "ok"
    directory.bind("train", binding, {"num_workers": config.num_workers})
    if not directory.is_complete():
        train_all([job], at_once=1)
        directory.finish({"job": "train", "status": "ok"})
    if metrics := rundir.read_json(directory.at(rundir.METRICS)):
        last = metrics["epochs"][-1]
        log.info(
            "train: %d epochs, loss %.4f, training accuracy %.3f",
            last["epoch"],
            last["loss"],
            last["train_accuracy"],
        )
    log_written(directory)
    return "ok"


def train_all(jobs: list[TrainJob], at_once: int) -> None:
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
    began = time.monotonic() if cluster.may_grow() else None
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
            log.info("%s", words)
        if said:
            began = None
        elif began is not None and time.monotonic() > began + cluster.WAIT_TOLD_S:
            cluster.tell_of_waiting("1 GPU" if jobs[0].use_gpu else "1 CPU")
            began = None
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
        _train_loop,
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


def _train_loop(config: dict[str, Any]) -> None:
    """What each training worker does."""
    job: TrainJob
    job, board, at_once = config["job"], config["board"], config["at_once"]
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    index = read_index(job.shard_uris, copies=True, exclude_fold=job.test_fold)
    taken, weights = policy.training_rows(job.policy, index.columns, [job.test_fold])
    index = index.take(taken)
    state, history = _saved()
    here = _workers_here(job, job.num_workers if job.min_workers else context.get_local_world_size(), at_once)
    # Where there is no worker apart, Ray Train would give a GPU that was not asked for.
    device = ray.train.torch.get_device() if job.use_gpu else torch.device("cpu")
    memory_bytes = _least(_memory_bytes(job, here), share, device)
    if state and job.memory_mb is None:  # as before, for the same order of rows, unless that were too much here
        memory_bytes = min(memory_bytes, state["memory_bytes"])
    rows, words = _rows(index, memory_bytes)
    if share.rank == 0:
        workers = f"{share.world_size} of {job.num_workers} workers; " if job.min_workers else ""
        board.say.remote(f"{job.name}: {workers}{words}")
    start, front_end = train_checks.beginning(job.training, rows.front_end)
    network = training.build_network(job.training, rows, job.vocabulary, job.seed, front_end, start, weights)
    network = network.to(device)
    if job.training.amp and not training.has_bfloat16(device) and share.rank == 0:
        board.say.remote(f"{job.name}: float32 in spite of --amp: this CPU has no bfloat16 arithmetic")
    wrap = training.alone if share.world_size == 1 else ray.train.torch.prepare_model
    trainer = Trainer(rows, job.vocabulary, job.training, job.seed, network, front_end, weights, share, wrap)
    if state:
        trainer.restore(state["trainer"])
    for epoch in range(len(history), job.training.epochs):
        loss_sum, hits = _sum_over_workers(trainer.epoch(epoch), share, device)
        n = trainer.n_segments
        history.append({"epoch": epoch + 1, "loss": loss_sum / n, "train_accuracy": hits / n})
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if share.rank == 0:
                board.post.remote(job.name, job.training.epochs, history[-1])
                state = {"trainer": trainer.state(), "memory_bytes": memory_bytes, "history": history}
                torch.save(state, Path(folder, STATE_FILE))
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(history[-1], checkpoint=saved)
    if share.rank == 0:
        _save(job, trainer.trained(), start, front_end, rows, history)


def _workers_here(job: TrainJob, of_one: int, at_once: int) -> int:
    """Workers that may share this machine: what each training may have here, as far as there is room for them."""
    node = ray.get_runtime_context().get_node_id()
    (resources,) = (one["Resources"] for one in ray.nodes() if one["NodeID"] == node)
    return min(max(1, of_one) * at_once, max(1, int(resources.get("GPU" if job.use_gpu else "CPU", 1))))


def _memory_bytes(job: TrainJob, workers: int) -> int:
    """That training rows may take in each of so many workers of this machine."""
    if job.memory_mb is not None:
        return job.memory_mb * 1_000_000
    return int(machine.available(machine.physical_bytes(), machine.cgroup_memory(), workers) * memory.SHARE)


def _least(value: int, share: Share, device: torch.device) -> int:
    """Of all workers: they have to keep their rows alike, whatever their machines."""
    if share.world_size == 1:
        return value
    total = torch.tensor(value, device=device)
    torch.distributed.all_reduce(total, torch.distributed.ReduceOp.MIN)
    return int(total)


def _rows(index: RowIndex, memory_bytes: int) -> tuple[Rows, str]:
    """The training rows, in memory if they fit; and which it is, in words."""
    choice = memory.choose(len(index), index.shape, memory_bytes)
    return MemoryRows(index.load()) if choice.in_memory else StreamedRows(index, memory_bytes), choice.words


def _saved() -> tuple[dict[str, Any] | None, list[dict[str, float]]]:
    """The last saved epoch's state, if there is one, and the metrics of the epochs behind it."""
    saved = ray.train.get_checkpoint()
    if saved is None:
        return None, []
    with saved.as_directory() as folder:
        # On the CPU first: a training may go on where there is no GPU, or another one.
        state = torch.load(Path(folder, STATE_FILE), weights_only=True, map_location="cpu")
    return state, state["history"]


def _sum_over_workers(values: tuple[float, float], share: Share, device: torch.device) -> tuple[float, ...]:
    if share.world_size == 1:
        return values
    total = torch.tensor(values, device=device, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return tuple(total.tolist())


def _save(
    job: TrainJob,
    network: Network,
    start: Checkpoint | None,
    front_end: FrontEnd,
    rows: Rows,
    history: list[dict[str, float]],
) -> None:
    """The checkpoint, metrics.json and events of a finished training."""
    segment_s = rows.front_end.duration_s(rows.shape[1])
    how = {
        **asdict(job.training),
        "seed": job.seed,
        "test_fold": job.test_fold,
        "manifests": rundir.manifests(job.shard_uris),
        "clips": len(set(rows.columns["clip_id"])),
        "before": start.lineage() if start else [],
        "policy": job.policy.to_dict() if job.policy else None,
    }
    done = Checkpoint(network, cast(str, job.training.model), front_end, job.vocabulary, segment_s, how, history[-1])
    done.save(storage.join(job.output_uri, checkpoint.FOLDER))
    event_files.write(job.output_uri, history)
    RunDirectory(job.output_uri).write_json(rundir.METRICS, {"epochs": history})


def trainings_at_once(jobs: Sequence[TrainJob]) -> int:
    """How many trainings of one kind fit on the cluster side by side, of as many as there are."""
    cluster.connect()
    slots = cluster.gpus() if jobs[0].use_gpu else cluster.cpus()
    return max(1, min(len(jobs), slots // max(1, jobs[0].num_workers)))
