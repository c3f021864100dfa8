"""What the driver makes sure of before a training begins."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from audioclf import checkpoint, front_ends, models, parquet_files, rundir, shards, storage, training
from audioclf.audio.frontend import FrontEnd
from audioclf.audio.pcm import AnyFrontEnd
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.errors import ConfigError, SchemaError
from audioclf.policy import Policy, warn_of_strangers
from audioclf.shards import Form
from audioclf.training_input import TrainingInput

log = logging.getLogger("audioclf")


def beginning(how: Training, stored: AnyFrontEnd) -> tuple[Checkpoint | None, FrontEnd]:
    """The weights a training begins with, if any, and the front end of its pictures.

    Args:
        how: it is trained.
        stored: the front end of the shards.
    """
    start = checkpoint.load_for(how.init, how.model) if how.init else None
    chosen = front_ends.read_of_pictures(how.frontend) if how.frontend else None
    return start, training.front_end_of(stored, start, chosen)


def check(
    shard_uris: Sequence[str],
    how: Training,
    test_fold: int | None,
    chosen: Policy | None = None,
    every_fold: bool = False,
) -> Training:
    """Find on the driver what would fail on every worker, and what would let training see the test clips.

    Args:
        shard_uris: run directories of extractions.
        how: networks are trained.
        test_fold: to be left out, if any.
        chosen: copies that are taken.
        every_fold: whether networks are to be measured on each fold in turn, and not on the test fold alone.

    Returns:
        `how`, with the network named that is to be trained: what run directories say.

    Raises:
        ConfigError: no shards or no such fold, or no other; different recordings with one clip_id; no such network, or
            nothing to start from; weights to start from that have learned from the test clips; a policy with transform
            sets that the shards lack; clips of one source in different folds; a single class.
        CheckpointMismatchError: weights to start from that are for another front end or network.
    """
    require_one_origin(shard_uris)
    stored = _stored(shard_uris)
    start, front_end = beginning(how, stored)
    name = training.model_name(how, start)
    models.check_name(name)
    how = replace(how, model=name)
    TrainingInput(how, stored, front_end, None, torch.device("cpu"))
    if start:
        training.require_start(how, start, front_end)
    rows = shards.read_columns(shard_uris, ["fold", "source_id", "transform_set", "labels", "valid_frames"])
    _check_classes(rows.select(["fold", "labels"]), how.sampling)
    if how.crop_s:
        _warn_of_padding(rows["valid_frames"])
    folds = set(rows["fold"].unique().to_pylist())
    if test_fold is not None and test_fold not in folds:
        raise ConfigError(f"--test-fold {test_fold}: the shards have {folds_in_words(folds)}")
    if folds == {test_fold} and test_fold is not None:
        raise ConfigError(f"--test-fold {test_fold}: all clips are of it, and none are left to train on")
    if start:
        measured_on = {fold for fold in (folds if every_fold else {test_fold}) if fold is not None}
        _require_unseen(start, measured_on, rundir.manifests(shard_uris))
    if chosen and (lacking := set(chosen.transform_sets) - set(rows["transform_set"].unique().to_pylist())):
        raise ConfigError(f"--policy: the shards hold no copies of {', '.join(sorted(lacking))}; extract with it")
    if chosen:
        warn_of_strangers(chosen, rows["labels"].combine_chunks().flatten().unique().to_pylist())
    spread = rows.group_by("source_id").aggregate([("fold", "count_distinct", pc.CountOptions(mode="all"))])
    if several := spread.filter(pc.field("fold_count_distinct") > 1)["source_id"].to_pylist():
        raise ConfigError(
            f"clips of one source lie in different folds ({len(several)} sources, the first is {min(several)}): "
            "training would hear the sources it is tested on; make the manifest with --folds N, or --source-regex"
        )
    return how


def portable(how: Training) -> Training:
    """The same for workers, which have another working directory: files that flags name are URIs."""
    return replace(
        how,
        init=checkpoint.find(how.init, how.model) if how.init else None,
        frontend=front_ends.portable(how.frontend) if how.frontend else None,
    )


def folds_in_words(folds: Collection[int | None]) -> str:
    """Which there are, for a message."""
    known = sorted(fold for fold in folds if fold is not None)
    return f"the folds {', '.join(map(str, known))}" if known else "no folds"


def _require_unseen(start: Checkpoint, measured_on: set[int], manifests: list[str]) -> None:
    """Refuse weights that have learned from the clips that a network which begins with them is to be tested on."""
    of_these = [before for before in start.lineage() if set(manifests) & set(before["manifests"])]
    for before in of_these:
        if seen := measured_on - {before["test_fold"]}:
            raise ConfigError(
                f"--init: these weights were trained on clips of the same manifest, fold {min(seen)} among them: "
                "what is measured on it would be what they have learned; begin with weights that have not seen it"
            )
    if measured_on and len(of_these) < len(start.lineage()):
        log.info("--init: trained on clips of another manifest; those that will be measured must not be among them")


def binding(shard_uris: Sequence[str], how: Training) -> dict[str, Any]:
    """What networks depend on beside their rows: the flags, and what the files hold that these name."""
    start, front_end = beginning(how, _stored(shard_uris))
    bound = asdict(how)
    if start:
        bound["init_weights"] = start.weights_digest()
    if how.frontend and how.frontend != front_end.name:  # a file: what a name stands for never changes
        bound["front_end"] = front_end.to_dict()
    return bound


def _stored(shard_uris: Sequence[str]) -> AnyFrontEnd:
    """The front end of the shards.

    Raises:
        ConfigError: those of one run directory are not like those of another.
    """
    firsts = [shards.committed_files(uri)[0] for uri in shard_uris]
    forms = []
    for uri in firsts:
        with parquet_files.opened(uri) as file:
            forms.append(Form.of(file.schema_arrow, uri))
    for form, uri in zip(forms, firsts, strict=True):
        try:
            forms[0].require(form, uri)
        except SchemaError as error:
            raise ConfigError(f"--shards: {error}; extract all with the same --frontend and --segment-s") from error
    return forms[0].front_end


def require_one_origin(shard_uris: Sequence[str]) -> None:
    """Refuse extractions together in which different recordings have one clip_id, and would be taken for one.

    Raises:
        ConfigError: there are such recordings.
    """
    if len(shard_uris) < 2:
        return
    rows = shards.read_columns(shard_uris, ["clip_id", "uri"])
    counted = rows.group_by("clip_id").aggregate([("uri", "count_distinct"), ("uri", "min"), ("uri", "max")])
    twice = counted.filter(pc.field("uri_count_distinct") > 1)
    if len(twice):
        low, high = (storage.display(twice[name][0].as_py()) for name in ("uri_min", "uri_max"))
        raise ConfigError(
            f"--shards: {len(twice):,} clips have the same path below the --input of their manifest as another, so "
            f"they have one clip_id: {low} and {high}; make the manifests from a folder that is above both"
        )


MUCH_PADDING = 0.2
"""Share of all rows from which on a network that learned from crops without it may do badly on whole rows."""


def _warn_of_padding(valid_frames: pa.ChunkedArray) -> None:
    valid = valid_frames.to_numpy()
    padding = 1 - valid.mean() / valid.max()  # a row is as long as the longest clip, unless --segment-s is longer still
    if padding >= MUCH_PADDING:
        log.warning(
            "--crop-s: %.0f %% of the rows that the network will be measured on is padding, which crops leave out; "
            "extract with a --segment-s as long as clips usually are",
            100 * padding,
        )


def _check_classes(rows: pa.Table, sampling: str = "all") -> None:
    """Refuse a single class; warn of those that a cross-validation can't learn, or can't test; say whether each class
    is learned by itself.
    """
    rows = rows.filter(pc.field("fold").is_valid()) if rows["fold"].null_count < len(rows) else rows
    labels = rows["labels"].combine_chunks()
    lengths = labels.value_lengths().to_numpy()
    if (lengths == 0).any() and lengths.max() == 1:
        log.warning(
            "%s of %s rows have no label, and so each class is learned as one that may be there or not, beside others; "
            "if every clip is of one class, leave those without out of the manifest",
            f"{(lengths == 0).sum():,}", f"{len(rows):,}",
        )  # fmt: skip
    if several := int((lengths > 1).sum()):
        log.info(
            "%s of %s rows have several labels: each class is learned as one that may be there or not",
            f"{several:,}", f"{len(rows):,}",
        )  # fmt: skip
    if sampling == "balanced" and (lengths == 0).any():
        log.warning(
            "--sampling balanced: the %s rows without a label are never shown, since they are of no class",
            f"{(lengths == 0).sum():,}",
        )
    pairs = pa.table({"label": labels.flatten(), "fold": rows["fold"].take(labels.value_parent_indices())})
    folds_of = pairs.group_by("label").aggregate([("fold", "distinct", pc.CountOptions(mode="all"))]).sort_by("label")
    names = folds_of["label"].to_pylist()
    if len(names) < 2:
        raise ConfigError(f"the shards have {names or 'no labels'}: a network tells two classes or more apart")
    n_folds = len(rows["fold"].unique())
    partly = [
        f"{name} ({'fold ' + str(folds[0]) + ' alone' if len(folds) == 1 else f'{len(folds)} folds'})"
        for name, folds in zip(names, folds_of["fold_distinct"].to_pylist(), strict=True)
        if len(folds) < n_folds
    ]
    if partly:
        log.warning(
            "%d of %d classes are not in every one of the %d folds: %s; what is tested on the only fold of a class is "
            "tested without its having been learned",
            len(partly), len(names), n_folds, ", ".join(partly[:10]) + (" …" if len(partly) > 10 else ""),
        )  # fmt: skip
