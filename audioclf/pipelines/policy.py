"""Shards → a class-conditional augmentation policy, learned from the training folds of a test fold alone."""

import csv
import io
import itertools
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from audioclf import heat_map, inference, metrics, policy_learning, rundir, shards, storage, training, waveforms
from audioclf.audio.augment import ORIGINAL
from audioclf.config import PolicyConfig, Training, training_of
from audioclf.errors import ConfigError
from audioclf.labels import Vocabulary
from audioclf.pipelines import cluster, train_checks
from audioclf.pipelines.progress import log_written
from audioclf.policy import Policy, training_rows
from audioclf.policy_learning import Design, Learned
from audioclf.rundir import RunDirectory
from audioclf.shards import Examples
from audioclf.torch_classifier import TorchClassifier
from audioclf.training_rows import MemoryRows

log = logging.getLogger("audioclf")

LOG_EVERY_S = 10.0


def run(config: PolicyConfig) -> str:
    """Learn the policy for one test fold; what the trainings found is kept beside it, and a rerun goes on."""
    storage.reach(*config.shards, config.output)
    shard_uris = tuple(storage.to_uri(uri) for uri in config.shards)
    extractions = rundir.bindings(shard_uris)
    how = train_checks.check(shard_uris, training_of(config), config.test_fold, every_fold=True)
    output = storage.to_uri(config.output)
    stem = output.removesuffix(".yaml").removesuffix(".yml")
    if stem == output:
        raise ConfigError(f"--output {config.output}: a policy file's name ends in .yaml")
    learning = plan(shard_uris, how, (config.test_fold,), config.repetitions, config.seed, config.validation_folds)
    directory = RunDirectory(f"{stem}.learned")
    if config.dry_run:
        directory.require("policy", learning.binding(extractions))
        log.info("policy: would train %d networks into %s", len(learning.trainings), directory)
        return "ok"
    directory.bind("policy", learning.binding(extractions), {})
    learned = learn(learning, directory.uri)[config.test_fold]
    write(learned, config.test_fold, output, stem)
    directory.finish({"job": "policy", "status": "ok", **learned.cost})
    log_written(directory)
    return "ok"


@dataclass(frozen=True)
class LearnedPolicy:
    """What was learned for one test fold, and what it cost."""

    learned: Learned
    cost: dict[str, Any]


@dataclass(frozen=True)
class PolicyTraining:
    """One training of a design: on the clips of all folds but two, measured on one or both of these.

    Each is the validation fold while the other is the test fold, so that a training serves two test folds.
    """

    without: tuple[int, int]
    measured: tuple[int, ...]
    repetition: int
    run: int

    @property
    def name(self) -> str:
        """Of its file of results."""
        return f"without-{self.without[0]}-{self.without[1]}-repetition-{self.repetition}-run-{self.run:02d}.json"


@dataclass(frozen=True, eq=False)
class Learning:
    """All that learned policies depend on.

    Attributes:
        shard_uris: run directories of extractions.
        how: each network is trained.
        test_folds: to learn a policy for, each from the other folds alone.
        seed: of the trainings.
        validation_folds: of each test fold; None: all others.
        designs: one for each repetition.
        trainings: that the policies of all test folds need, each once.
    """

    shard_uris: tuple[str, ...]
    how: Training
    test_folds: tuple[int, ...]
    seed: int
    validation_folds: int | None
    designs: tuple[Design, ...]
    trainings: tuple[PolicyTraining, ...]

    def binding(self, extractions: list[str]) -> dict[str, Any]:
        """What the output depends on, the shards' own bindings among it."""
        return {
            "shards": extractions,
            **train_checks.binding(self.shard_uris, self.how),
            "test_folds": list(self.test_folds),
            "repetitions": len(self.designs),
            "validation_folds": self.validation_folds,
            "seed": self.seed,
        }


def plan(
    shard_uris: tuple[str, ...],
    how: Training,
    test_folds: tuple[int, ...],
    repetitions: int,
    seed: int,
    validation_folds: int | None,
) -> Learning:
    """Lay out the trainings.

    Raises:
        ConfigError: the shards hold no copies, or fewer than three folds.
    """
    columns = shards.read_columns(shard_uris, ["labels", "fold", "transform_set"]).to_pydict()
    sets = sorted({*columns["transform_set"]} - {ORIGINAL})
    if not sets:
        raise ConfigError("the shards hold no augmented copies to learn from; extract with --augment SETS")
    folds = sorted({fold for fold in columns["fold"] if fold is not None})
    if len(folds) < 3:
        raise ConfigError(f"learning a policy takes three folds, to test, to validate and to train; found {folds}")
    classes = Vocabulary.of(columns["labels"]).names
    designs = tuple(policy_learning.design(sets, classes, repetition) for repetition in range(repetitions))
    trainings = tuple(
        PolicyTraining(pair, tuple(fold for fold in pair if {*pair} - {fold} <= {*test_folds}), repetition, run)
        for repetition, design in enumerate(designs)
        for pair in _pairs(folds, validation_folds)
        if {*pair} & {*test_folds}
        for run in range(len(design.policies))
    )
    return Learning(shard_uris, how, test_folds, seed, validation_folds, designs, trainings)


def _pairs(folds: Sequence[int], validation_folds: int | None) -> list[tuple[int, int]]:
    """Pairs of folds, of which each has as many others; where not all: its neighbours to both sides, in a circle."""
    n = len(folds)
    if validation_folds is None or validation_folds >= n - 1:
        return list(itertools.combinations(folds, 2))
    pairs = [(folds[i], folds[(i + step) % n]) for step in range(1, validation_folds // 2 + 1) for i in range(n)]
    return sorted((min(pair), max(pair)) for pair in pairs)


def learn(learning: Learning, directory: str) -> dict[int, LearnedPolicy]:
    """A policy for each test fold.

    Args:
        learning: from what, and how.
        directory: where the trainings' results are kept, so that a rerun does the rest.

    Raises:
        AudioclfError: as raised in a training.
    """
    found = _train_all(learning, storage.join(directory, rundir.TRAININGS))
    return {fold: _learn_one(learning, fold, found) for fold in learning.test_folds}


def _learn_one(learning: Learning, test_fold: int, found: dict[str, dict[str, Any]]) -> LearnedPolicy:
    """The policy for one test fold, from the losses of the validation clips."""
    n_runs = len(learning.designs[0].policies)
    mine = [one for one in learning.trainings if test_fold in one.without]
    losses: dict[str, np.ndarray] = {}
    about: dict[str, tuple[str, list[str]]] = {}
    for one in mine:
        for clip_id, fold, source_id, labels, loss in found[one.name]["clips"]:
            if fold == test_fold:  # measured for the other policy that this training serves
                continue
            of_clip = losses.setdefault(clip_id, np.full((len(learning.designs), n_runs), np.nan))
            of_clip[one.repetition, one.run] = loss
            about[clip_id] = source_id, labels
    clip_ids = sorted(losses)
    vocabulary = Vocabulary(learning.designs[0].classes, multi_label=False)
    learned = policy_learning.learn(
        np.stack([losses[clip_id] for clip_id in clip_ids], axis=2),
        learning.designs,
        vocabulary.targets([about[clip_id][1] for clip_id in clip_ids]),
        [about[clip_id][0] for clip_id in clip_ids],
    )
    cost = {
        "trainings": len(mine),
        "cpu_s": round(sum(found[one.name]["cpu_s"] for one in mine), 1),
        "trainings_of_a_full_grid": len(mine) // n_runs * 2 ** len(learning.designs[0].transform_sets),
    }
    return LearnedPolicy(learned, cost)


def _train_all(learning: Learning, folder: str) -> dict[str, dict[str, Any]]:
    """The result of each training by its name: those done before from their files, the others as Ray tasks."""
    done = set(storage.names_in(folder))
    due = [one for one in learning.trainings if one.name not in done]
    log.info(
        "policy: %d trainings, %d of them done before", len(learning.trainings), len(learning.trainings) - len(due)
    )
    if due:
        _run_tasks(learning, due, folder)
    return {one.name: json.loads(storage.read_bytes(storage.join(folder, one.name))) for one in learning.trainings}


def _run_tasks(learning: Learning, due: Sequence[PolicyTraining], folder: str) -> None:
    cluster.connect()
    how = train_checks.portable(learning.how)
    examples = ray.put(shards.load(learning.shard_uris, copies=True))  # read in place by every task of a node
    fit: Any = ray.remote(num_cpus=1, max_retries=2)(_train)
    waiting, running = list(reversed(due)), dict[Any, PolicyTraining]()
    began = shown = time.monotonic()
    while waiting or running:
        # Beyond the CPUs there are: a cluster that starts nodes on demand does so for tasks that wait.
        most = max(1, cluster.cpus()) * (2 if cluster.may_grow() else 1)
        while waiting and len(running) < most:
            one = waiting.pop()
            chosen = learning.designs[one.repetition].policies[one.run]
            running[fit.remote(examples, how, learning.seed, one, chosen)] = one
        ended, _ = ray.wait(list(running), num_returns=1)
        for ref in ended:
            one = running.pop(ref)
            try:
                result = ray.get(ref)
            except RayError as error:
                raise cluster.own_error(error) from error
            storage.write_bytes(storage.join(folder, one.name), json.dumps(result).encode())
        now, left = time.monotonic(), len(waiting) + len(running)
        if now - shown >= LOG_EVERY_S or not left:
            shown = now
            each_s = (now - began) / (len(due) - left)
            log.info("policy: %d/%d trainings, %.0f s left", len(due) - left, len(due), each_s * left)


def _train(examples: Examples, how: Training, seed: int, one: PolicyTraining, chosen: Policy) -> dict[str, Any]:
    """Train on all folds but two, and measure the log-loss of the validation clips."""
    began = time.process_time()
    columns = examples.columns
    vocabulary = Vocabulary.of(columns["labels"])
    rows, weights = training_rows(chosen, columns, one.without)
    start, front_end = train_checks.beginning(how, examples.front_end)
    # The same random numbers in every run of a repetition: what differs is the augmentation.
    network = training.fit(
        MemoryRows(examples.take(rows)), vocabulary, how, seed + one.repetition, front_end, weights, start
    )
    measured = waveforms.pictures(examples.take(_originals(columns, one.measured)), front_end)
    predicted = inference.predict(
        TorchClassifier(network), measured.log_mel, measured.valid_frames, vocabulary.multi_label, how.batch_size
    )
    return {"clips": _clip_losses(measured, predicted.probabilities, vocabulary), "cpu_s": time.process_time() - began}


def _originals(columns: Mapping[str, list[Any]], folds: Sequence[int]) -> np.ndarray:
    """The rows of the originals of some folds."""
    pairs = zip(columns["fold"], columns["copy_index"], strict=True)
    return np.flatnonzero([fold in folds and copy_index == 0 for fold, copy_index in pairs])


def _clip_losses(examples: Examples, probabilities: np.ndarray, vocabulary: Vocabulary) -> list[list[Any]]:
    """clip_id, fold, source_id, labels and log-loss of each clip; its probabilities are the mean over its segments."""
    clip_ids, first, clip = np.unique(examples.columns["clip_id"], return_index=True, return_inverse=True)
    sums = np.zeros((len(clip_ids), probabilities.shape[1]))
    np.add.at(sums, clip, probabilities)
    columns = [[examples.columns[name][i] for i in first] for name in ("fold", "source_id", "labels")]
    mean = sums / np.bincount(clip)[:, None]
    losses = metrics.log_loss(mean, vocabulary.targets(columns[2]), vocabulary.multi_label)
    return [list(row) for row in zip(clip_ids.tolist(), *columns, losses.tolist(), strict=True)]


def write(found: LearnedPolicy, test_fold: int, policy_uri: str, stem: str) -> None:
    """The policy file; beside it the table of changes as CSV and as a picture."""
    rows = found.learned.rows
    head = (
        f"# Learned by jobs/policy.py without fold {test_fold}, from {found.cost['trainings']} trainings "
        f"({found.cost['cpu_s']:.0f} CPU s).\n"
        "# A set's weight is how often training takes its copies, against 1 for the original.\n"
    )
    storage.write_bytes(policy_uri, (head + found.learned.policy.to_yaml()).encode())
    storage.write_bytes(f"{stem}.csv", _csv(rows))
    title = f"What augmentation changes, learned without fold {test_fold}"
    storage.write_bytes(f"{stem}.png", heat_map.draw(rows, title))
    _report(found, test_fold)
    log.info("wrote %s, and beside it .csv and .png", storage.display(policy_uri))


def _csv(rows: Iterable[dict[str, Any]]) -> bytes:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _report(found: LearnedPolicy, test_fold: int) -> None:
    cost = found.cost
    log.info(
        "policy for test fold %s: from %d trainings, %.0f CPU s (all combinations: %d trainings)",
        test_fold, cost["trainings"], cost["cpu_s"], cost["trainings_of_a_full_grid"],
    )  # fmt: skip
    for name, sets in list(found.learned.policy.classes.items())[:50]:
        log.info("  %-24s %s", name, ", ".join(f"{one} {weight:.2f}" for one, weight in sets.items()) or "no copies")
