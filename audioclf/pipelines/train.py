"""Shards → a checkpoint: one network, on all folds but one."""

import logging

from audioclf import policy, rundir, shards, storage
from audioclf.config import TrainConfig, training_of
from audioclf.labels import Vocabulary
from audioclf.pipelines import train_checks
from audioclf.pipelines.progress import log_written
from audioclf.pipelines.run_trainings import run_trainings
from audioclf.pipelines.train_loop import TrainJob
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")


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
        run_trainings([job], at_once=1)
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
