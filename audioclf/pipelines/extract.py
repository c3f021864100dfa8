"""The manifest → Parquet shards of log-mel pictures."""

import logging
import math
import time
from typing import Any

import numpy as np
import pyarrow as pa

from audioclf import conservation, manifest, rundir, shards, storage, units
from audioclf.audio import augment
from audioclf.audio.frontend import get_front_end
from audioclf.config import ExtractConfig
from audioclf.errors import ConfigError
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.manifest import ManifestFile
from audioclf.pipelines.manifest import probe_all
from audioclf.pipelines.progress import Progress, log_outcome
from audioclf.pipelines.run_units import run_units
from audioclf.rundir import RunDirectory
from audioclf.units import Unit

log = logging.getLogger("audioclf")

PLAN_COLUMNS = ["clip_id", "uri", "size_bytes", "duration_s", "start_s", "end_s"]


def run(config: ExtractConfig) -> str:
    """Plan units, process those not yet committed, check that nothing is lost, sum up."""
    began = time.monotonic()
    augment.check_transform_sets(config.augment)
    clips = manifest.read(storage.to_uri(config.manifest), PLAN_COLUMNS)
    table = clips.table.slice(0, config.limit)
    if len(table) == 0:
        raise ConfigError(f"{config.manifest}: the manifest holds no clips")
    directory = RunDirectory(config.output)
    segment_s = config.segment_s or _bound_segment_s(directory) or _longest_clip_s(table, config)
    plan, binding = _plan(config, clips, len(table), segment_s, directory)
    work = _units(table, plan, config)
    committed = directory.committed(shards.DATA)
    due = [unit for unit in work if unit.name not in committed]
    log.info(
        "extract: %s clips in %s units, %s of them done before; segments of %.3f s, %d rows each",
        f"{len(table):,}", f"{len(work):,}", f"{len(work) - len(due):,}", segment_s, len(plan.copy_sets),
    )  # fmt: skip
    if config.dry_run:
        return "ok"
    directory.bind("extract", binding, {"manifest": config.manifest, "max_reject_fraction": config.max_reject_fraction})
    if due:
        storage.remove(directory.at(rundir.SUCCESS))
    progress = Progress("extract", sum(unit.row_stop - unit.row_start for unit in due), began)
    if due:
        for counts in run_units(_make, plan, due, config.num_actors):
            rejected = counts["clips_rejected"] + counts["clips_partial"]
            progress.add(counts["clips"], rejected, counts["audio_s"], counts["bytes"])
        progress.close()
    totals = conservation.check(plan, work, table["clip_id"])
    summary = _summary(totals, progress, config.max_reject_fraction)
    directory.finish(summary)
    _report(directory, summary)
    return summary["status"]


def _make(plan: ExtractPlan) -> Any:
    extractor = UnitExtractor(plan)
    return lambda unit: extractor(unit).to_dict()


def _plan(
    config: ExtractConfig, clips: ManifestFile, n_clips: int, segment_s: float, directory: RunDirectory
) -> tuple[ExtractPlan, dict[str, Any]]:
    """The plan, and the part of the configuration that the output depends on."""
    front_end = get_front_end(config.frontend)
    unit_clips = config.unit_clips or units.default_unit_clips(n_clips, 1 + len(config.augment) * config.copies)
    binding = {
        "manifest_digest": clips.digest,
        "limit": config.limit,
        "front_end": front_end.to_dict(),
        "segment_s": segment_s,
        "augment": list(config.augment),
        "copies": config.copies if config.augment else 0,
        "seed": config.seed,
        "unit_clips": unit_clips,
    }
    plan = ExtractPlan(
        manifest_uri=clips.uri,
        output_uri=directory.uri,
        front_end=front_end,
        segment_s=segment_s,
        transform_sets=config.augment,
        copies=config.copies,
        seed=config.seed,
        config_digest=rundir.config_digest(binding),
    )
    return plan, binding


def _units(table: pa.Table, plan: ExtractPlan, config: ExtractConfig) -> list[Unit]:
    seconds = units.audio_seconds(table["duration_s"].to_numpy(), table["size_bytes"].to_numpy())
    rows = len(plan.copy_sets)
    unit_clips = config.unit_clips or units.default_unit_clips(len(table), rows)
    return units.plan_units(seconds, unit_clips, units.MAX_UNIT_S / rows)


def _bound_segment_s(directory: RunDirectory) -> float | None:
    """What the run that began this directory found, so that a resume reads no headers."""
    binding = directory.binding()
    return None if binding is None else binding.get("segment_s")


def _longest_clip_s(table: pa.Table, config: ExtractConfig) -> float:
    """The longest clip's duration, at most the bound; headers are read where the manifest has no durations."""
    durations = table["duration_s"].to_numpy().copy()
    for i in np.flatnonzero(np.isnan(durations)):
        if (end_s := table["end_s"][i].as_py()) is not None:
            durations[i] = end_s - (table["start_s"][i].as_py() or 0)
    unknown = np.flatnonzero(np.isnan(durations))
    if len(unknown):
        log.info("extract: reading %s headers for the longest clip (--segment-s S saves this)", f"{len(unknown):,}")
        infos = probe_all([table["uri"][int(i)].as_py() for i in unknown])
        durations[unknown] = [math.nan if info is None else info.duration_s for info in infos]
    if np.isnan(durations).all() or not (longest := float(np.nanmax(durations))) > 0:
        raise ConfigError(f"{config.manifest}: no clip's header can be read; give --segment-s to go on regardless")
    return min(longest, config.max_segment_s)


def _summary(totals: conservation.Totals, progress: Progress, max_reject_fraction: float) -> dict[str, Any]:
    counts = totals.counts
    rejected = counts["clips_rejected"] + counts["clips_partial"]
    too_many = rejected > max_reject_fraction * counts["clips"]
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
                "planned": counts["clips"],
                "ok": counts["clips_ok"],
                "partial": counts["clips_partial"],
                "rejected": counts["clips_rejected"],
            },
            **rows,
            "rejects_by_reason": dict(totals.reasons),
            "clips_by_flag": dict(totals.flags),
            "audio_s": round(counts["audio_s"], 3),
            "bytes": counts["bytes"],
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
    log_outcome(directory, summary)
