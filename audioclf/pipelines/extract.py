"""The manifest → Parquet shards of log-mel pictures."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from audioclf import (
    backgrounds,
    conservation,
    fetch,
    front_ends,
    manifest,
    parquet_files,
    policy,
    rundir,
    storage,
    units,
)
from audioclf.audio import rubberband
from audioclf.audio.augment import ORIGINAL, TRANSFORM_SETS
from audioclf.audio.pcm import AnyFrontEnd
from audioclf.augmentation import Augmentation
from audioclf.config import ExtractConfig
from audioclf.errors import ConfigError, EngineError
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.manifest import ManifestFile
from audioclf.pipelines import cluster
from audioclf.pipelines.manifest import probe_all
from audioclf.pipelines.progress import Progress, log_outcome, log_rejects
from audioclf.pipelines.run_units import Stage, run_units
from audioclf.rundir import RunDirectory
from audioclf.units import Attempt, Unit

log = logging.getLogger("audioclf")

PLAN_COLUMNS = ["clip_id", *units.EXTENT_COLUMNS]

LIBRARIES_MB = 400
"""What of a worker's memory its libraries take."""


def run(config: ExtractConfig) -> str:
    """Plan units, process those not yet committed, check that nothing is lost, sum up."""
    began = time.monotonic()
    front_end = front_ends.read(config.frontend)
    storage.reach(config.manifest, config.output, *filter(None, (config.policy, config.backgrounds)))
    augmentation = _augmentation(config)
    columns = [*PLAN_COLUMNS, "labels"] if augmentation.policy else PLAN_COLUMNS
    clips = manifest.read(storage.to_uri(config.manifest), columns)
    table = clips.table.slice(0, config.limit)
    if len(table) == 0:
        raise ConfigError(f"{config.manifest}: the manifest holds no clips")
    manifest.require_each_once(table["clip_id"], config.manifest)
    if augmentation.policy:
        policy.warn_of_strangers(augmentation.policy, table["labels"].combine_chunks().flatten().unique().to_pylist())
    directory = RunDirectory(config.output)
    segment_s = config.segment_s or _bound_segment_s(directory, config) or _longest_clip_s(table, config)
    plan, work, binding = _plan(config, front_end, augmentation, clips, table, segment_s, directory)
    directory.require("extract", binding)  # before it is told what was done before
    committed = directory.committed(rundir.DATA)
    due = [unit for unit in work if unit.name not in committed]
    log.info(
        "extract: %s clips in %s units, %s of them done before; segments of %.3f s, up to %d rows (planned in %.1f s)",
        f"{len(table):,}", f"{len(work):,}", f"{len(work) - len(due):,}", segment_s, len(augmentation.all_copies),
        time.monotonic() - began,
    )  # fmt: skip
    if config.dry_run:
        return "ok"
    flags = {
        "manifest": storage.to_uri(config.manifest),  # what was relative then would be wrong from elsewhere
        "backgrounds": config.backgrounds and storage.to_uri(config.backgrounds),
        "max_reject_fraction": config.max_reject_fraction,
        "segment_s": config.segment_s,
        "max_segment_s": config.max_segment_s,
    }
    directory.bind("extract", binding, flags)
    for folder in (rundir.DATA, rundir.REJECTS):
        storage.remove_unfinished(directory.at(folder))
    if due:
        storage.remove(directory.at(rundir.SUCCESS))
    progress = Progress("extract", _clips_in(due), began)
    if due:
        plan = replace(plan, readable_uri=_find_readable(clips, len(table)))
        cluster.connect()  # what it says comes before the line that renews itself
        with progress.shown():
            for counts in run_units([Stage(_make, plan, config.num_actors, config.memory_mb)], due):
                progress.add(counts)
    totals = conservation.check(plan, work, table)
    summary = _summary(totals, progress, config.max_reject_fraction)
    directory.finish(summary)
    _report(directory, summary)
    return summary["status"]


def _augmentation(config: ExtractConfig) -> Augmentation:
    """What the flags ask for, and whether this machine can do it.

    Raises:
        ConfigError: a set or file that isn't there, no rubberband program, no background recordings.
    """
    wanted = policy.read(config.policy) if config.policy else None
    sets = wanted.transform_sets if wanted else tuple(name for name in config.augment if name != ORIGINAL)
    for name in sets:
        if name not in TRANSFORM_SETS:
            raise ConfigError(f"--augment {name}: unknown; there are: {', '.join([ORIGINAL, *TRANSFORM_SETS])}")
    takes_backgrounds = any(TRANSFORM_SETS[name].backgrounds for name in sets)
    if takes_backgrounds and not config.backgrounds:
        raise ConfigError("the transform set bg needs --backgrounds, a folder of background recordings")
    found = backgrounds.find(config.backgrounds) if config.backgrounds and takes_backgrounds else ()
    for name in sets:
        choices = len(TRANSFORM_SETS[name].choices)
        if not TRANSFORM_SETS[name].ranges and config.copies > choices:
            log.warning("--copies %d: %s has %d different ones, which come again", config.copies, name, choices)
    augmentation = Augmentation(sets, config.copies, config.seed, config.engine, wanted, found)
    if augmentation.needs_engine:
        try:
            rubberband.check()
        except EngineError as error:
            raise ConfigError(str(error)) from error
    return augmentation


def _augmentation_binding(augmentation: Augmentation) -> dict[str, Any]:
    """What of the augmentation the output depends on."""
    if not augmentation.transform_sets:
        return {"augment": []}
    return {
        "augment": list(augmentation.transform_sets),
        "copies": augmentation.copies,
        "seed": augmentation.seed,
        "engine": augmentation.engine if augmentation.needs_engine else None,
        "policy": augmentation.policy.to_dict() if augmentation.policy else None,
        "backgrounds": [[one.name, one.etag] for one in augmentation.backgrounds],
    }


def _make(plan: ExtractPlan) -> Callable[[Attempt], dict[str, Any]]:
    extractor = UnitExtractor(plan)
    return lambda attempt: extractor(attempt.unit, attempt.careful).to_dict()


def _find_readable(clips: ManifestFile, n_clips: int) -> str | None:
    with contextlib.closing(manifest.SliceReader(clips.uri, clips.etag)) as reader:
        return fetch.find_readable(reader.rows(row, row + 1)[0]["uri"] for row in fetch.spread_rows(n_clips))


def _clips_in(due: list[Unit]) -> int:
    """Clips that begin in these units."""
    return sum(unit.row_stop - unit.row_start for unit in due if unit.first_segment == 0)


def _plan(
    config: ExtractConfig,
    front_end: AnyFrontEnd,
    augmentation: Augmentation,
    clips: ManifestFile,
    table: pa.Table,
    segment_s: float,
    directory: RunDirectory,
) -> tuple[ExtractPlan, list[Unit], dict[str, Any]]:
    """The plan, its units, and the part of the configuration that the output depends on."""
    plan = ExtractPlan(
        manifest_uri=clips.uri,
        manifest_etag=clips.etag,
        output_uri=directory.uri,
        front_end=front_end,
        segment_s=segment_s,
        config_digest="",
        augmentation=augmentation,
        # Fetched files, pictures held, their stacked copy and its encoding.
        buffer_bytes=(config.memory_mb - LIBRARIES_MB) * 1_000_000 // 6,
    )
    _check_memory(plan, config)
    rows = len(augmentation.all_copies)
    n_segments, seconds, splittable = units.extent(table, plan.grid)
    unit_segments = config.unit_segments or units.default_unit_segments(int(n_segments.sum()), rows)
    work = units.plan_units(n_segments, seconds, splittable, unit_segments, units.MAX_UNIT_S / rows)
    binding = {
        "manifest_digest": clips.digest,
        "limit": config.limit,
        "front_end": front_end.to_dict(),
        "segment_s": segment_s,
        **_augmentation_binding(augmentation),
        "unit_segments": unit_segments,
        "units": f"{len(work)}, digest {units.digest(work)}",
    }
    return replace(plan, config_digest=rundir.config_digest(binding)), work, binding


def _check_memory(plan: ExtractPlan, config: ExtractConfig) -> None:
    """Raise ConfigError where a single segment is too much for a worker."""
    samples, front_end = plan.grid.length, plan.front_end
    # The frames read ahead, mixed and resampled, some as float64; what double precision computes again; the picture.
    needed_mb = (samples * 32 + front_end.n_features * front_end.n_frames(samples) * 16) / 1e6
    if needed_mb > config.memory_mb - LIBRARIES_MB:
        raise ConfigError(
            f"segments of {plan.segment_s:g} s take a worker about {needed_mb:,.0f} MB beside its libraries' "
            f"{LIBRARIES_MB}: give a shorter --segment-s, or --memory-mb {needed_mb + LIBRARIES_MB:.0f}"
        )


def _bound_segment_s(directory: RunDirectory, config: ExtractConfig) -> float | None:
    """What the run that began this directory found by the same flags, so that a resume reads no headers."""
    begun = directory.config()
    if begun is None:
        return None
    flags = begun.get("flags", {})
    as_now = flags.get("segment_s") is None and flags.get("max_segment_s", config.max_segment_s) == config.max_segment_s
    return begun["binding"].get("segment_s") if as_now else None


def _longest_clip_s(table: pa.Table, config: ExtractConfig) -> float:
    """The longest clip's duration, at most the bound; headers are read where the manifest has no durations."""
    durations = table["duration_s"].to_numpy().copy()
    starts, ends = np.nan_to_num(table["start_s"].to_numpy()), table["end_s"].to_numpy()
    durations = np.fmin(ends, durations) - starts  # of what is known; a part may be said to end beyond its file
    if np.nanmax(durations, initial=0) >= config.max_segment_s:
        return config.max_segment_s  # no other clip can change that
    unknown = np.flatnonzero(np.isnan(durations))
    if len(unknown):
        log.info("extract: reading %s headers for the longest clip (--segment-s S saves this)", f"{len(unknown):,}")
        uris = manifest.read(storage.to_uri(config.manifest), ["uri"]).table["uri"].take(pa.array(unknown)).to_pylist()
        infos = probe_all(uris)
        found = np.array([math.nan if info is None else info.duration_s or math.nan for info in infos])
        durations[unknown] = found - starts[unknown]
    if np.isnan(durations).all() or not (longest := float(np.nanmax(durations))) > 0:
        raise ConfigError(f"{config.manifest}: no clip's header can be read; give --segment-s to go on regardless")
    return min(longest, config.max_segment_s)


def _summary(totals: conservation.Totals, progress: Progress, max_reject_fraction: float) -> dict[str, Any]:
    planned = totals.clips.total()
    too_many = totals.clips["rejected"] + totals.clips["partial"] > max_reject_fraction * planned
    rows = {
        kind: {
            "planned": sum(outcomes.values()),
            "written": outcomes["written"],
            "rejected": outcomes["rejected"],
        }
        for kind, outcomes in totals.rows.items()
    }
    return {
        "job": "extract",
        "status": "too_many_rejects" if too_many else "ok",
        "total": {
            "clips": {
                "planned": planned,
                "ok": totals.clips["ok"],
                "partial": totals.clips["partial"],
                "rejected": totals.clips["rejected"],
            },
            **rows,
            "rejects_by_reason": dict(totals.reasons),
            "clips_by_flag": dict(totals.flags),
            "audio_s": round(totals.audio_s, 3),
            "bytes": totals.bytes,
            "same_audio_in_different_folds": {
                "groups": len(totals.duplicates),
                "clip_ids": totals.duplicates[:100],
            },
        },
        "max_reject_fraction": max_reject_fraction,
        "this_run": progress.summary(),
    }


def _report(directory: RunDirectory, summary: dict[str, Any]) -> None:
    total = summary["total"]
    clips = total["clips"]
    log.info(
        "extract: %s: %s clips = %s ok + %s partial + %s rejected; %s rows; %.2f h of audio",
        summary["status"], f"{clips['planned']:,}", f"{clips['ok']:,}", f"{clips['partial']:,}",
        f"{clips['rejected']:,}", f"{total['segments']['written'] + total['copies']['written']:,}",
        total["audio_s"] / 3600,
    )  # fmt: skip
    if groups := total["same_audio_in_different_folds"]["groups"]:
        log.warning("  the same audio lies in different folds %d times: see summary.json", groups)
    log_rejects(_rejects(directory), sum(summary["total"]["rejects_by_reason"].values()))
    log_outcome(directory, summary)


def _rejects(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """Rows of the rejects that are committed, unit by unit."""
    for uri in directory.committed_rejects():
        yield from parquet_files.read(uri).to_pylist()
