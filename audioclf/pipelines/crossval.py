"""Train and evaluate every fold in turn, with one or several seeds."""

import logging
from dataclasses import replace
from typing import Any

from audioclf import checkpoint, policy, rundir, shards, storage
from audioclf.config import CrossvalConfig, Training, training_of
from audioclf.errors import ConfigError
from audioclf.labels import Vocabulary
from audioclf.pipelines import compare, evaluate, run_trainings, train_checks
from audioclf.pipelines import policy as learn_policy
from audioclf.pipelines.policy import Learning
from audioclf.pipelines.progress import log_written
from audioclf.pipelines.train_loop import TrainJob
from audioclf.policy import Policy
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

EVALUATION_BATCH = 16

LEARN = "learn"
"""In place of a policy file."""


def run(config: CrossvalConfig) -> str:
    """Train what is not yet trained, predict each fold by the networks that never saw it, measure."""
    storage.reach(*config.shards, config.output, *filter(None, [config.baseline]))
    shard_uris = tuple(storage.to_uri(uri) for uri in config.shards)
    extractions = rundir.bindings(shard_uris)
    if config.baseline is not None:
        compare.require(RunDirectory(config.baseline))
    chosen = policy.read(config.policy) if config.policy and config.policy != LEARN else None
    how = train_checks.check(shard_uris, training_of(config), None, chosen, every_fold=True)
    labels, row_folds = shards.all_labels(shard_uris)
    folds = sorted({fold for fold in row_folds if fold is not None})
    if len(folds) < 2:
        raise ConfigError(
            f"crossval needs clips in two folds or more; make the manifest with --folds N (found {folds})"
        )
    vocabulary = Vocabulary.of(labels)
    directory = RunDirectory(config.output)
    binding = {
        "shards": extractions,
        **train_checks.binding(shard_uris, how),
        "seeds": config.seeds,
        "policy": _policy_binding(config, chosen),
    }
    portable = train_checks.portable(how)
    jobs = {
        (seed, fold): TrainJob(
            name=f"seed-{seed}-fold-{fold}",
            shard_uris=shard_uris,
            vocabulary=vocabulary,
            output_uri=directory.at(rundir.TRAININGS, f"seed-{seed}-fold-{fold}"),
            training=portable,
            test_fold=fold,
            seed=seed,
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            memory_mb=config.memory_mb,
            policy=chosen,
        )
        for seed in range(config.seeds)
        for fold in folds
    }
    due = [job for job in jobs.values() if not _is_trained(job)]
    log.info("crossval: %d trainings, %d of them done before; folds %s", len(jobs), len(jobs) - len(due), folds)
    learning = _plan_learning(config, how, shard_uris, tuple(folds)) if config.policy == LEARN else None
    if config.dry_run:
        directory.require("crossval", binding)
        return "ok"
    directory.bind("crossval", binding, {"num_workers": config.num_workers})
    measured = rundir.read_json(directory.at(rundir.METRICS)) if directory.is_complete() else None
    if measured is not None and not due:
        evaluate.report("crossval", measured)
        _compare(config, directory)
        return "ok"
    if due and learning:
        learned = _learn(learning, directory)
        due = [replace(job, policy=learned[job.test_fold]) for job in due]
    if due:
        # Of all trainings: what memory each may take, and so the order of its rows, is the same after a restart.
        run_trainings.run_trainings(due, run_trainings.trainings_at_once(list(jobs.values())))
    per_seed = []
    for seed in range(config.seeds):
        of_fold = {fold: storage.join(jobs[seed, fold].output_uri, checkpoint.FOLDER) for fold in folds}
        per_seed.append(evaluate.predict(shard_uris, of_fold, EVALUATION_BATCH, num_actors=0))
    measured = evaluate.measure(per_seed, vocabulary)
    evaluate.write_predictions(directory, dict(enumerate(per_seed)))
    directory.write_json(rundir.METRICS, measured)
    directory.finish({"job": "crossval", "status": "ok", "trainings": len(jobs), "clips": measured["clips"]})
    evaluate.report("crossval", measured)
    _compare(config, directory)
    log_written(directory)
    return "ok"


def _policy_binding(config: CrossvalConfig, chosen: Policy | None) -> Any:
    if config.policy == LEARN:
        return {
            "learned": {
                "epochs": _policy_epochs(config),
                "repetitions": config.policy_repetitions,
                "validation_folds": config.policy_validation_folds,
            }
        }
    return chosen.to_dict() if chosen else None


def _policy_epochs(config: CrossvalConfig) -> int:
    return config.epochs if config.policy_epochs is None else config.policy_epochs


def _plan_learning(
    config: CrossvalConfig, how: Training, shard_uris: tuple[str, ...], folds: tuple[int, ...]
) -> Learning:
    """The trainings that learn a policy for each test fold from the other folds."""
    try:
        how = replace(how, epochs=_policy_epochs(config))
    except ConfigError as error:
        raise ConfigError(f"--policy-epochs {_policy_epochs(config)}: {error}") from error
    return learn_policy.plan(
        shard_uris, how, folds, config.policy_repetitions, seed=0, validation_folds=config.policy_validation_folds
    )


def _learn(learning: Learning, directory: RunDirectory) -> dict[int | None, Policy]:
    """A policy for each test fold; written to policies/."""
    learned = learn_policy.learn(learning, directory.at(rundir.POLICIES))
    for fold, found in learned.items():
        stem = directory.at(rundir.POLICIES, f"fold-{fold}")
        learn_policy.write(found, fold, f"{stem}.yaml", stem)
    return {fold: found.learned.policy for fold, found in learned.items()}


def _compare(config: CrossvalConfig, directory: RunDirectory) -> None:
    """Against --baseline, if given: the change of accuracy, overall and by class, with paired intervals."""
    if config.baseline is None:
        return
    compared = compare.runs(RunDirectory(config.baseline), directory)
    directory.write_json(compare.COMPARISON, compared)
    compare.report(compared)


def _is_trained(job: TrainJob) -> bool:
    return storage.exists(storage.join(job.output_uri, rundir.METRICS))
