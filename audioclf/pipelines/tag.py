"""What is new below a prefix → tags, run after run into one output."""

import logging
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from audioclf import checkpoint, layouts, ledger, manifest, shards, storage, units
from audioclf.checkpoint import Checkpoint
from audioclf.config import TagConfig
from audioclf.errors import ConfigError
from audioclf.manifest import Clip
from audioclf.pipelines.progress import Progress, log_outcome
from audioclf.pipelines.run_units import run_units
from audioclf.rundir import RunDirectory
from audioclf.tagging import TagPlan, UnitTagger
from audioclf.units import Unit

log = logging.getLogger("audioclf")

RUNS, MANIFEST = "runs", "manifest.parquet"


def run(config: TagConfig) -> str:
    """List, leave out what the ledger knows, tag the rest, bring the ledger up to date."""
    began = time.monotonic()
    storage.reach(config.input, *checkpoint.uris(config.checkpoint), config.output)
    uri = checkpoint.find(config.checkpoint)
    loaded = checkpoint.load_for(config.checkpoint)
    output = RunDirectory(config.output)
    window_s = config.window_s or loaded.segment_s
    hop_s = config.hop_s or window_s
    known = ledger.read(output, _run_names(output))
    found = _recordings(config)
    seen = known.seen()
    due = [clip for clip in found if seen.get(clip.clip_id) != (clip.size_bytes, clip.etag)]
    old_enough = _old_enough(due, config.min_age_s)
    due, too_young = old_enough[: config.limit], len(due) - len(old_enough)
    log.info(
        "tag: %s recordings, %s of them due, %s too young; windows of %.2f s every %.2f s, top %d at %.2f or more",
        f"{len(found):,}", f"{len(due):,}", f"{too_young:,}", window_s, hop_s, config.top_k, config.threshold,
    )  # fmt: skip
    if config.dry_run:
        return "ok"
    output.bind(
        "tag",
        _binding(config, loaded, window_s, hop_s),
        {"input": config.input, "checkpoint": config.checkpoint},
    )
    if not due:
        ledger.write_snapshot(output, known)
        log.info("tag: nothing new")
        return "ok"
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    directory = RunDirectory(output.at(RUNS, name))
    table = manifest.to_table(due)
    manifest.write(table, directory.at(MANIFEST))
    plan = TagPlan(
        directory.at(MANIFEST),
        directory.uri,
        uri,
        window_s,
        hop_s,
        config.top_k,
        config.threshold,
        config.batch_size,
    )
    seconds = units.audio_seconds(table["duration_s"].to_numpy(), table["size_bytes"].to_numpy())
    ones = np.ones(len(due), np.int64)
    work = units.plan_units(ones, seconds, ones == 0, units.default_unit_segments(len(due)), config.unit_s)
    progress = _process(plan, work, len(due), config.num_actors, began)
    summary = _summary(directory, work, progress, config.max_reject_fraction)
    directory.finish(summary)
    ledger.write_snapshot(output, ledger.read(output, _run_names(output)))
    _report(directory, summary)
    return summary["status"]


def _process(plan: TagPlan, work: list[Unit], n_due: int, num_actors: int, began: float) -> Progress:
    progress = Progress("tag", n_due, began, "recordings")
    for counts in run_units(UnitTagger, plan, work, num_actors):
        progress.add(counts)
    progress.close()
    return progress


def _binding(config: TagConfig, loaded: Checkpoint, window_s: float, hop_s: float) -> dict[str, Any]:
    """What the rows depend on: one output holds tags of one network and one way of cutting."""
    return {
        "model": loaded.name,
        "weights": loaded.weights_digest(),
        "classes": list(loaded.vocabulary.names),
        "front_end": loaded.front_end.to_dict(),
        "window_s": window_s,
        "hop_s": hop_s,
        "top_k": config.top_k,
        "threshold": config.threshold,
    }


def _run_names(output: RunDirectory) -> list[str]:
    return storage.folders_in(output.at(RUNS))


def _recordings(config: TagConfig) -> list[Clip]:
    """The recordings of a manifest, or of a listing."""
    uri = storage.to_uri(config.input)
    if uri.endswith(".parquet"):
        return manifest.clips_of(manifest.read(uri).table)
    return layouts.from_flat(layouts.list_audio(uri).files)


def _old_enough(clips: list[Clip], min_age_s: float) -> list[Clip]:
    """Those last modified min_age_s ago or longer."""
    if min_age_s == 0:
        return clips
    newest = time.time() - min_age_s
    if any(clip.modified_s is None for clip in clips):
        raise ConfigError("--min-age-s needs a folder or prefix as --input: a manifest has no times of modification")
    return [clip for clip in clips if (clip.modified_s or 0) <= newest]


def _summary(
    directory: RunDirectory, work: list[Unit], progress: Progress, max_reject_fraction: float
) -> dict[str, Any]:
    """Counted from what is committed."""
    reasons: dict[str, int] = {}
    recordings = tags = rejected = 0
    audio_s = 0.0
    with_rejects = directory.committed(shards.REJECTS)
    for unit in work:
        rows = shards.read_table(directory.at("recordings", unit.name), ["status", "duration_s"])
        status = np.array(rows["status"].to_pylist())
        recordings += len(status)
        rejected += int((status == "rejected").sum())
        audio_s += sum(value or 0.0 for value in rows["duration_s"].to_pylist())
        tags += len(shards.read_table(directory.at(shards.DATA, unit.name), ["rank"]))
        if unit.name in with_rejects and (status == "rejected").any():
            for reason in shards.read_table(directory.at(shards.REJECTS, unit.name), ["error"])["error"].to_pylist():
                reasons[reason] = reasons.get(reason, 0) + 1
    planned = work[-1].row_stop
    return {
        "job": "tag",
        "status": "too_many_rejects" if rejected > max_reject_fraction * recordings else "ok",
        "total": {
            "recordings": {"planned": planned, "ok": recordings - rejected, "rejected": rejected},
            "tags": tags,
            "audio_s": round(audio_s, 3),
            "rejects_by_reason": reasons,
        },
        "max_reject_fraction": max_reject_fraction,
        "this_run": progress.summary(),
    }


def _report(directory: RunDirectory, summary: dict[str, Any]) -> None:
    total = summary["total"]
    recordings = total["recordings"]
    log.info(
        "tag: %s: %s recordings = %s ok + %s rejected; %s tags, %.2f h of audio",
        summary["status"], f"{recordings['planned']:,}", f"{recordings['ok']:,}", f"{recordings['rejected']:,}",
        f"{total['tags']:,}", total["audio_s"] / 3600,
    )  # fmt: skip
    log_outcome(directory, summary)
