"""Shards → a checkpoint, by Ray Train; also many at once, for cross-validation."""

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.fs
import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError

from audioclf import checkpoint, models, policy, rundir, s3, shards, storage, training
from audioclf.batch_augment import BatchAugment
from audioclf.checkpoint import Checkpoint
from audioclf.config import TrainConfig, Training, training_of
from audioclf.errors import CheckpointMismatchError, ConfigError
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.pipelines import cluster
from audioclf.policy import Policy
from audioclf.rundir import RunDirectory
from audioclf.shards import Examples

log = logging.getLogger("audioclf")

STATE_FOLDER = "training_state"
"""Below a training run: Ray Train's checkpoints, from which a killed run goes on; removed at the end."""
STATE_FILE = "state.pt"
METRICS = "metrics.json"
REPORT_EVERY_S = 10.0


@dataclass(frozen=True)
class TrainJob:
    """One network to train; travels to the workers."""

    name: str
    shard_uris: tuple[str, ...]
    output_uri: str
    training: Training
    test_fold: int | None
    seed: int
    num_workers: int
    use_gpu: bool
    policy: Policy | None
    """Which copies are taken, and how often; None: originals and all copies alike."""


def run(config: TrainConfig) -> str:
    """Train one network on all folds but one."""
    storage.reach(*config.shards, config.output)
    shard_uris = tuple(storage.to_uri(uri) for uri in config.shards)
    how = training_of(config)
    chosen = policy.read(config.policy) if config.policy else None
    check(shard_uris, how, config.test_fold, chosen)
    directory = RunDirectory(config.output)
    job = TrainJob(
        "train",
        shard_uris,
        directory.uri,
        how,
        config.test_fold,
        config.seed,
        config.num_workers,
        config.use_gpu,
        chosen,
    )
    binding = {
        "shards": rundir.bindings(shard_uris),
        **asdict(how),
        "policy": chosen.to_dict() if chosen else None,
        "test_fold": config.test_fold,
        "seed": config.seed,
    }
    if config.dry_run:
        log.info("train: would train %s for %d epochs into %s", how.model, how.epochs, directory)
        return "ok"
    directory.bind("train", binding, {"num_workers": config.num_workers})
    if not directory.is_complete():
        train_all([job], at_once=1)
        directory.finish({"job": "train", "status": "ok"})
    metrics = rundir.read_json(directory.at(METRICS)) or {}
    last = metrics["epochs"][-1]
    log.info(
        "train: %d epochs, loss %.4f, training accuracy %.3f",
        last["epoch"],
        last["loss"],
        last["train_accuracy"],
    )
    log.info(
        "wrote %s",
        directory.at(checkpoint.FOLDER) if directory.uri.startswith("s3:") else f"{directory}/checkpoint",
    )
    return "ok"


def check(shard_uris: Sequence[str], how: Training, test_fold: int | None, chosen: Policy | None = None) -> None:
    """Find on the driver what would fail on every worker, and what would let training see the test clips.

    Raises:
        ConfigError: no shards, no such network, fold or checkpoint to start from; a policy with transform sets that the
            shards lack; clips of one source in different folds.
    """
    models.check_name(how.model)
    if how.init is not None:
        checkpoint.load_for(how.init)
    first = shards.committed_files(shard_uris[0])[0]
    BatchAugment.of(how, shards.front_end_of(shards.read_metadata(first), first))
    rows = shards.read_columns(shard_uris, ["fold", "source_id", "transform_set"])
    folds = set(rows["fold"].unique().to_pylist())
    if test_fold is not None and test_fold not in folds:
        known = ", ".join(str(fold) for fold in sorted(fold for fold in folds if fold is not None))
        raise ConfigError(f"--test-fold {test_fold}: the shards have the folds {known or 'none'}")
    if chosen and (lacking := set(chosen.transform_sets) - set(rows["transform_set"].unique().to_pylist())):
        raise ConfigError(f"--policy: the shards hold no copies of {', '.join(sorted(lacking))}; extract with it")
    spread = rows.group_by("source_id").aggregate([("fold", "count_distinct", pc.CountOptions(mode="all"))])
    if several := spread.filter(pc.field("fold_count_distinct") > 1)["source_id"].to_pylist():
        raise ConfigError(
            f"clips of one source lie in different folds ({len(several)} sources, the first is {min(several)}): "
            "training would hear the sources it is tested on; make the manifest with --folds N, or --source-regex"
        )


def train_all(jobs: list[TrainJob], at_once: int) -> None:
    """Train several networks, so many side by side, and show how they get on.

    Raises:
        AudioclfError: as raised in a worker.
    """
    cluster.connect()
    board: Any = ray.remote(num_cpus=0)(_Board)
    board = board.remote()
    # A task each: Ray carries its error here, and ends it with the driver.
    fit: Any = ray.remote(num_cpus=0, max_retries=0)(_fit)
    waiting, running = list(jobs), dict[Any, TrainJob]()
    while waiting or running:
        while waiting and len(running) < at_once:
            job = waiting.pop(0)
            running[fit.remote(job, board)] = job
        done, _ = ray.wait(list(running), num_returns=1, timeout=REPORT_EVERY_S)
        for ref in done:
            job = running.pop(ref)
            try:
                ray.get(ref)
            except RayError as error:
                raise cluster.own_error(error) from error
            log.info("%s: trained, %d to go", job.name, len(waiting) + len(running))
        if not done:
            names = {job.name for job in running.values()}
            for name, epochs, metrics in ray.get(board.latest.remote()):
                if name in names:
                    log.info("%s: epoch %d/%d, loss %.4f", name, metrics["epoch"], epochs, metrics["loss"])


class _Board:
    """Where trainings post their latest epoch, for the driver to show."""

    def __init__(self) -> None:
        self._new: dict[str, tuple[int, dict[str, float]]] = {}

    def post(self, name: str, epochs: int, metrics: dict[str, float]) -> None:
        self._new[name] = epochs, metrics

    def latest(self) -> list[tuple[str, int, dict[str, float]]]:
        posted, self._new = self._new, {}
        return [(name, *value) for name, value in sorted(posted.items())]


def _fit(job: TrainJob, board: Any) -> None:
    """Run Ray Train to the end of one job, going on where an earlier attempt stopped."""
    filesystem, path = _filesystem(job.output_uri)
    resources = {"CPU": 1, "GPU": 1} if job.use_gpu else {"CPU": 1}
    trainer = ray.train.torch.TorchTrainer(
        _train_loop,
        train_loop_config={"job": job, "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.num_workers, use_gpu=job.use_gpu, resources_per_worker=resources
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
    filesystem.delete_dir(f"{path}/{STATE_FOLDER}")


def _filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """What Ray Train writes through, and the path in it. On S3 it sees the same AWS variables as storage.py."""
    path = storage.local_path(uri)
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        return pyarrow.fs.LocalFileSystem(), str(path)
    return pyarrow.fs.S3FileSystem(**s3.pyarrow_options()), uri.removeprefix("s3://")


def _train_loop(config: dict[str, Any]) -> None:
    """What each training worker does."""
    job: TrainJob = config["job"]
    context = ray.train.get_context()
    share = training.Share(context.get_world_rank(), context.get_world_size())
    examples = shards.load(job.shard_uris, copies=True, exclude_fold=job.test_fold)
    rows, weights = policy.training_rows(job.policy, examples.columns, [job.test_fold])
    if len(rows) < len(examples):
        examples = examples.take(rows)
    vocabulary = Vocabulary.of(shards.all_labels(job.shard_uris)[0])
    network = _initial_network(job, examples, vocabulary).to(ray.train.torch.get_device())
    trainer = training.Trainer(
        examples, vocabulary, job.training, job.seed, _for_workers(network, share), share, weights
    )
    history = _restore(network, trainer)
    for epoch in range(len(history), job.training.epochs):
        loss_sum, hits = _sum_over_workers(trainer.epoch(epoch), share, network.mean.device)
        n = trainer.n_segments
        history.append({"epoch": epoch + 1, "loss": loss_sum / n, "train_accuracy": hits / n})
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if share.rank == 0:
                config["board"].post.remote(job.name, job.training.epochs, history[-1])
                state = {
                    "network": network.state_dict(),
                    "optimizer": trainer.optimizer.state_dict(),
                    "history": history,
                }
                torch.save(state, Path(folder, STATE_FILE))
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(history[-1], checkpoint=saved)
    if share.rank == 0:
        _save(job, network, vocabulary, examples, history)


def _initial_network(job: TrainJob, examples: Examples, vocabulary: Vocabulary) -> Network:
    network = training.build_network(job.training, examples, vocabulary, job.seed)
    if job.training.init is not None:
        start = checkpoint.load(checkpoint.find(job.training.init))
        start.require_front_end(examples.front_end, "the shards")
        if start.name != job.training.model or start.vocabulary != vocabulary:
            raise CheckpointMismatchError(
                f"--init {job.training.init}: a {start.name} of {len(start.vocabulary)} classes; "
                f"it is to start a {job.training.model} of the {len(vocabulary)} classes of the shards"
            )
        network.load_state_dict(start.network.state_dict())
    return network


def _for_workers(network: Network, share: training.Share) -> torch.nn.Module:
    return network if share.world_size == 1 else ray.train.torch.prepare_model(network)


def _restore(network: Network, trainer: training.Trainer) -> list[dict[str, float]]:
    """Go back to the last saved epoch, if there is one; gives the metrics of the epochs behind it."""
    saved = ray.train.get_checkpoint()
    if saved is None:
        return []
    with saved.as_directory() as folder:
        state = torch.load(Path(folder, STATE_FILE), weights_only=True)
    network.load_state_dict(state["network"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def _sum_over_workers(values: tuple[float, float], share: training.Share, device: torch.device) -> tuple[float, ...]:
    if share.world_size == 1:
        return values
    total = torch.tensor(values, device=device)
    torch.distributed.all_reduce(total)
    return tuple(total.tolist())


def _save(
    job: TrainJob,
    network: Network,
    vocabulary: Vocabulary,
    examples: Examples,
    history: list[dict[str, float]],
) -> None:
    """The checkpoint and metrics.json of a finished training."""
    front_end = examples.front_end
    segment_s = front_end.duration_s(examples.log_mel.shape[2])
    how = {
        **asdict(job.training),
        "seed": job.seed,
        "test_fold": job.test_fold,
        "clips": len(set(examples.columns["clip_id"])),
        "policy": job.policy.to_dict() if job.policy else None,
    }
    done = Checkpoint(network, job.training.model, front_end, vocabulary, segment_s, how, history[-1])
    done.save(storage.join(job.output_uri, checkpoint.FOLDER))
    RunDirectory(job.output_uri).write_json(METRICS, {"epochs": history})


def trainings_at_once(num_workers: int, use_gpu: bool) -> int:
    """How many trainings fit on the cluster side by side."""
    cluster.connect()
    slots = cluster.gpus() if use_gpu else cluster.cpus()
    return max(1, math.floor(slots / max(1, num_workers)))
