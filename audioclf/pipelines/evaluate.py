"""Shards and checkpoints → predictions and metrics."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from audioclf import (
    checkpoint,
    inference,
    metrics,
    parquet_files,
    rundir,
    schema,
    shards,
    storage,
    thresholds,
    waveforms,
)
from audioclf.checkpoint import Checkpoint
from audioclf.config import EvaluateConfig
from audioclf.errors import ConfigError
from audioclf.labels import Vocabulary
from audioclf.listing import Heartbeat
from audioclf.models import pretrained
from audioclf.pipelines import train_checks
from audioclf.pipelines.progress import log_written
from audioclf.pipelines.run_units import Stage, map_on_actors
from audioclf.rundir import RunDirectory
from audioclf.torch_classifier import TorchClassifier

log = logging.getLogger("audioclf")


def run(config: EvaluateConfig) -> str:
    """Measure one checkpoint on one fold, or on every clip; on request, leave the thresholds learned there in it."""
    if config.write_thresholds and pretrained.named(config.checkpoint):
        raise ConfigError(
            f"--write-thresholds: {config.checkpoint} is a published network, with no description to write them into; "
            "leave the flag out: metrics.json has the thresholds, for a file to give to jobs/tag.py --thresholds"
        )
    storage.reach(*config.shards, *checkpoint.uris(config.checkpoint), config.output)
    shard_uris = tuple(storage.to_uri(uri) for uri in config.shards)
    uri = checkpoint.find(config.checkpoint)
    loaded = checkpoint.load_for(config.checkpoint)
    extractions = rundir.bindings(shard_uris)
    seen = _seen(loaded, rundir.manifests(shard_uris), config.test_fold)
    if config.write_thresholds and seen is Seen.YES:
        left_out = loaded.training["test_fold"]
        raise ConfigError(
            "--write-thresholds: the network was trained on these clips, and is surer of them than of others: "
            + (
                "give shards of other clips"
                if left_out in (None, config.test_fold)  # or weights that it began with were
                else f"it left out fold {left_out}, give --test-fold {left_out}"
            )
        )
    directory = RunDirectory(config.output)
    first = shards.committed_files(shard_uris[0])[0]
    loaded.require_front_end(shards.front_end_of(parquet_files.metadata(first), first), storage.display(first))
    train_checks.require_one_origin(shard_uris)
    _require_clips(loaded.vocabulary, shard_uris, config.test_fold)
    binding = {
        "shards": extractions,
        "weights": loaded.weights_digest(),
        "test_fold": config.test_fold,
    }
    if seen is not Seen.NO:
        log.warning("evaluate: %s", seen.value)
    if config.dry_run:
        directory.require("evaluate", binding)
        log.info("evaluate: would measure %s on fold %s into %s", config.checkpoint, config.test_fold, directory)
        return "ok"
    directory.bind("evaluate", binding, {})
    clips = predict(shard_uris, {config.test_fold: uri}, config.batch_size, config.num_actors)
    measured = measure([clips], loaded.vocabulary)
    learned = _add_thresholds(measured, clips, loaded.vocabulary)
    write_predictions(directory, {loaded.training.get("seed", 0): clips})
    directory.write_json(rundir.METRICS, measured)
    if config.write_thresholds:
        checkpoint.write_thresholds(uri, thresholds.or_none(learned))
    directory.finish({"job": "evaluate", "status": "ok", "clips": len(clips), "warning": seen.value})
    report("evaluate", measured)
    where = f"written into {storage.display(uri)}" if config.write_thresholds else f"they are in {rundir.METRICS} alone"
    log.info("evaluate: %s; %s", thresholds.describe(learned, loaded.vocabulary.names), where)
    log_written(directory)
    return "ok"


def _require_clips(vocabulary: Vocabulary, shard_uris: tuple[str, ...], test_fold: int | None) -> None:
    """Make sure, before anything is written, that there are clips to measure, and that the network has their labels.

    Raises:
        ConfigError: there are no clips in the fold, or at all.
        CheckpointMismatchError: the network lacks a label.
    """
    rows = shards.read_columns(shard_uris, ["labels", "fold", "copy_index"])
    wanted = rows.filter(shards.wanted(copies=False, fold=test_fold, exclude_fold=None))
    if not len(wanted):
        folds = train_checks.folds_in_words(set(rows["fold"].unique().to_pylist()))
        raise ConfigError(
            "the shards hold no clips" if test_fold is None else f"--test-fold {test_fold}: the shards have {folds}"
        )
    vocabulary.targets([sorted(wanted["labels"].combine_chunks().flatten().unique().to_pylist())])


class Seen(Enum):
    """Whether a network has learned from the clips it is measured on, and what to say of it."""

    NO = None
    YES = "the network was trained on clips that it is measured on: others it will know less well"
    UNKNOWN = (
        "the network was trained on clips of another manifest: good figures mean something only if those measured are "
        "not among them, whatever their fold is called"
    )


def _seen(loaded: Checkpoint, manifests: list[str], test_fold: int | None) -> Seen:
    """By the manifests of each training that the network has gone through, and the fold it left out.

    Published networks have seen none.
    """
    found = {_seen_in(one, set(manifests), test_fold) for one in loaded.lineage()}
    return next((worst for worst in (Seen.YES, Seen.UNKNOWN) if worst in found), Seen.NO)


def _seen_in(training: Mapping[str, Any], manifests: set[str], test_fold: int | None) -> Seen:
    trained_on, left_out = set(training["manifests"]), training["test_fold"]
    if manifests & trained_on and (left_out is None or test_fold != left_out):
        return Seen.YES
    return Seen.NO if manifests <= trained_on else Seen.UNKNOWN


@dataclass(frozen=True)
class ClipPrediction:
    """What a network says of one clip: the mean over its segments."""

    clip_id: str
    uri: str
    fold: int | None
    source_id: str
    labels: list[str]
    start_s: float
    end_s: float
    probabilities: np.ndarray


def predict(
    shard_uris: tuple[str, ...],
    checkpoint_of_fold: Mapping[int | None, str] | Mapping[int, str],
    batch_size: int,
    num_actors: int,
) -> list[ClipPrediction]:
    """The original clips of some folds, each seen by its fold's checkpoint, ordered by clip_id.

    Args:
        shard_uris: run directories of extractions.
        checkpoint_of_fold: test fold to checkpoint; None stands for every clip, whatever its fold.
        batch_size: segments' patches in a forward pass.
        num_actors: worker processes; 0: one a CPU.

    Raises:
        ConfigError: no clip lies in these folds.
    """
    files = [{"uri": uri} for run_uri in shard_uris for uri in shards.committed_files(run_uri)]
    log.info("predicting the clips of %d files of shards, by %d networks", len(files), len(checkpoint_of_fold))
    heartbeat = Heartbeat("predict", f"of {len(files):,} files")
    segments: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for count, rows in enumerate(
        map_on_actors([Stage(_predictor, (dict(checkpoint_of_fold), batch_size), num_actors)], files), 1
    ):
        heartbeat.show(count)
        for row in rows:
            segments[row["clip_id"]].append(row)
    if not segments:
        raise ConfigError(f"no clip of fold {', '.join(map(str, checkpoint_of_fold))} in the shards")
    clips = []
    for clip_id, rows in sorted(segments.items()):
        rows.sort(key=lambda row: row["segment_index"])  # so that the mean adds up in one order
        probabilities = np.mean([row["probabilities"] for row in rows], axis=0)
        of_clip = {name: rows[0][name] for name in ("uri", "fold", "source_id", "labels", "start_s")}
        end_s = max(row["end_s"] for row in rows)
        clips.append(ClipPrediction(clip_id, **of_clip, end_s=end_s, probabilities=probabilities))
    return clips


def _predictor(plan: tuple[dict[int | None, str], int]) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """Builds, in a worker, what predicts the segments of a shard file."""
    checkpoints = {fold: checkpoint.load(uri) for fold, uri in plan[0].items()}
    return lambda file: _predict_file(file["uri"], checkpoints, batch_size=plan[1])


def _predict_file(uri: str, checkpoints: dict[int | None, Checkpoint], batch_size: int) -> list[dict[str, Any]]:
    rows = []
    originals = shards.load_files([uri], copies=False)
    fold_of = np.array(originals.columns["fold"])
    for fold, loaded in checkpoints.items():
        examples = originals if fold is None else originals.take(np.flatnonzero(fold_of == fold))
        if len(examples) == 0:
            continue
        loaded.require_front_end(examples.front_end, storage.display(uri))
        examples = waveforms.pictures(examples, loaded.front_end)
        multi_label = loaded.vocabulary.multi_label
        predicted = inference.predict(
            TorchClassifier(loaded.network), examples.log_mel, examples.valid_frames, multi_label, batch_size
        )
        columns = ("clip_id", "uri", "segment_index", "start_s", "fold", "source_id", "labels")
        frame_s = loaded.front_end.hop_length / loaded.front_end.sample_rate
        for i, row in enumerate(predicted.probabilities):
            of_segment = {name: examples.columns[name][i] for name in columns}
            end_s = of_segment["start_s"] + float(examples.valid_frames[i]) * frame_s
            rows.append({**of_segment, "end_s": end_s, "probabilities": row})
    return rows


def measure(of_seeds: Sequence[list[ClipPrediction]], vocabulary: Vocabulary) -> dict[str, Any]:
    """The content of metrics.json: of one network, or the means over those of several seeds, for the same clips."""
    clips = of_seeds[0]
    matrices = [_matrices(one, vocabulary) for one in of_seeds]
    hits = np.array([metrics.hits(probabilities, targets) for probabilities, targets in matrices])
    of_clip = hits.mean(0)
    fold_of = np.array([clip.fold for clip in clips])
    measured = {
        **metrics.mean_of([metrics.describe(*one, vocabulary.names, vocabulary.multi_label) for one in matrices]),
        "accuracy_ci95": metrics.mean_ci95(of_clip, [clip.source_id for clip in clips]),
        "accuracy_per_fold": {
            str(fold): float(of_clip[fold_of == fold].mean())
            for fold in sorted({clip.fold for clip in clips if clip.fold is not None})
        },
        "classes": list(vocabulary.names),
    }
    if len(of_seeds) > 1:
        measured["accuracy_per_seed"] = hits.mean(1).tolist()
    return measured


def _matrices(clips: list[ClipPrediction], vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and targets, [N, C] each."""
    return np.stack([clip.probabilities for clip in clips]), vocabulary.targets([clip.labels for clip in clips])


def _add_thresholds(measured: dict[str, Any], clips: list[ClipPrediction], vocabulary: Vocabulary) -> np.ndarray:
    """Learn each class's threshold on the clips, and put it, and how it does there, among the class's figures.

    Not a part of `measure`: a threshold is of one network, and a cross-validation measures several together.

    Returns:
        [C] float64, NaN for a class without one.
    """
    probabilities, targets = _matrices(clips, vocabulary)
    learned = thresholds.learn(probabilities, targets)
    figures = thresholds.measure(learned, probabilities, targets)
    for c, name in enumerate(vocabulary.names):
        measured["per_class"][name] |= {key: values[c] for key, values in figures.items()}
    return learned


def write_predictions(directory: RunDirectory, of_seed: Mapping[int, list[ClipPrediction]]) -> None:
    """predictions.parquet: a row a clip and seed, its probabilities in the order of metrics.json's classes."""
    rows = [{**vars(clip), "seed": seed} for seed, clips in of_seed.items() for clip in clips]
    storage.write_bytes(directory.at(rundir.PREDICTIONS), parquet_files.encode(rows, schema.PREDICTION))


def report(job: str, measured: dict[str, Any]) -> None:
    """The figures a person wants first."""
    low, high = measured["accuracy_ci95"]
    log.info(
        "%s: accuracy %.4f (95%% interval %.3f to %.3f, over sources), mAP %.4f, %d clips",
        job, measured["accuracy"], low, high, measured["mean_average_precision"], measured["clips"],
    )  # fmt: skip
    for fold, value in measured["accuracy_per_fold"].items():
        log.info("  fold %-4s accuracy %.4f", fold, value)
    for name, of_class in list(measured["per_class"].items())[:50]:
        log.info("  %-30s recall %.3f  precision %.3f", name, of_class["recall"], of_class["precision"])
