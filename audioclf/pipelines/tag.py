"""What is new below a prefix → tags, run after run into one output."""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from audioclf import (
    archive,
    checkpoint,
    export,
    fetch,
    ledger,
    manifest,
    run_lock,
    rundir,
    storage,
    tag_results,
    tag_summary,
    units,
)
from audioclf.archive import Archive, Due
from audioclf.checkpoint import Checkpoint
from audioclf.config import TagConfig
from audioclf.errors import ConfigError, ExportError
from audioclf.ledger import Ledger
from audioclf.pipelines import cluster, tag_stages
from audioclf.pipelines.manifest import probe
from audioclf.pipelines.progress import MOST_REJECTS_LOGGED, Progress, log_outcome, log_rejects
from audioclf.pipelines.run_units import Stage, run_units
from audioclf.run_lock import RunLock
from audioclf.rundir import RunDirectory
from audioclf.tag_results import RUN_NAME, RUNS, TagRun
from audioclf.tag_settings import TagSettings
from audioclf.tagging import TagPlan
from audioclf.windows import Windows

log = logging.getLogger("audioclf")

LOCK, MANIFEST, NETWORK = "lock.json", "manifest.parquet", "network"

PROBE_ABOVE_BYTES = 64e6
"""Larger files are looked into for their length, so that several workers share them."""

UNIT_BYTES = 64 << 20
"""Of the pictures of a unit."""

CPU, GPU = "cpu", "cuda"
"""Devices, by PyTorch's names."""

BATCH_SIZE = {CPU: 1, GPU: 64}
"""On a CPU larger batches fall out of its cache: by measurement, see benchmarks/README.md. GPUs want large ones."""


def run(config: TagConfig) -> str:
    """Hold the output's lock while its archive is listed, what is due is tagged and the ledger brought up to date."""
    began = time.monotonic()
    storage.reach(config.input, *checkpoint.uris(config.checkpoint), config.output)
    loaded = checkpoint.load_for(config.checkpoint)
    settings = TagSettings.of(config, loaded)
    output = RunDirectory(config.output)
    binding = _binding(config, settings, loaded)
    if config.dry_run:
        output.require("tag", binding)
        closed = [one.name for one in tag_results.runs_of(output) if one.is_closed()]
        _due(config, settings, _find(config, output), ledger.read(output, closed))
        return "ok"
    with run_lock.hold(output.at(LOCK), "tag") as lock:
        found = _find(config, output)
        output.bind("tag", binding, {"checkpoint": config.checkpoint})
        return _tag(config, settings, loaded, found, output, lock, began)


def _find(config: TagConfig, output: RunDirectory) -> Archive:
    """The archive; one that has been tagged before may have been emptied since.

    Raises:
        ConfigError: it tells neither ages nor names, which are asked for.
    """
    found = archive.find(config.input, may_be_empty=storage.exists(output.at(*ledger.SNAPSHOT)))
    if found.is_manifest and (config.min_age_s or config.time_regex):
        raise ConfigError(
            "--min-age-s and --time-regex need a folder or prefix as --input: a manifest has no times of modification, "
            "and those of recording were found when it was made"
        )
    if not len(found) and not found.is_manifest:
        log.warning("tag: %s is empty: the recordings that were in it are gone, or its disk is not there", config.input)
    return found


def _tag(
    config: TagConfig,
    settings: TagSettings,
    loaded: Checkpoint,
    found: Archive,
    output: RunDirectory,
    lock: RunLock,
    began: float,
) -> str:
    for folder in (ledger.SNAPSHOT[0], NETWORK):
        storage.remove_unfinished(output.at(folder))
    earlier = tag_results.runs_of(output)
    killed = [one for one in earlier if not one.is_told()]
    known = _settle(config, loaded, output, lock, killed)
    for one in killed:
        _tell_of_killed(one)
    due = _due(config, settings, found, known)
    status = "ok"
    if len(due.table):
        name = datetime.now(UTC).strftime(RUN_NAME)
        directory = RunDirectory(output.at(RUNS, name))
        readable_uri = fetch.find_readable(fetch.spread(found.table["uri"]))
        progress = _process(config, settings, loaded, due.table, readable_uri, output, directory, lock, began)
        known = _settle(config, loaded, output, lock, [TagRun(directory, name)])
        status = _sum_up(config, settings, directory, due, progress)
    else:
        log.info("tag: nothing new")
    lock.check()
    ledger.write_snapshot(output, known.listing(found.table, whole=not found.is_manifest))
    if config.keep_days is not None:
        # Not what was told of only now, or nobody would ever see it.
        _remove_old(config.keep_days, [one for one in earlier if one not in killed])
    return status


def _settle(
    config: TagConfig, loaded: Checkpoint, output: RunDirectory, lock: RunLock, ended: Sequence[TagRun]
) -> Ledger:
    """Close the runs that have ended, or were killed, if they are not closed yet; the ledger of all."""
    lock.check()  # or a run that has taken over would be closed under way
    for one in ended:
        if not one.is_closed():
            one.close(loaded.vocabulary.names, config.event_gap_s, config.export)
    return ledger.read(output, [one.name for one in tag_results.runs_of(output)])


def _due(config: TagConfig, settings: TagSettings, found: Archive, known: Ledger) -> Due:
    """What of the archive is to be done."""
    due = archive.due(found, known, config.min_age_s, settings.times, config.limit, config.retry_rejected)
    log.info(
        "tag: %s recordings, %s of them due%s, %s too young; since last time %s changed, %s gone; %s",
        f"{len(found):,}", f"{len(due.table):,}", f" (--limit {config.limit})" if config.limit else "",
        f"{due.too_young:,}", f"{due.changed:,}", f"{due.gone:,}", settings.describe(),
    )  # fmt: skip
    if found.passed_over:
        log.info("tag: passed over, not audio by name: %s", found.passed_over)
    if due.from_the_future:
        log.warning(
            "tag: %s recordings were modified in the future, by their files' times: --min-age-s can't hold for them; "
            "set the clock of what writes them",
            f"{due.from_the_future:,}",
        )
    if due.undated:
        log.warning(
            "tag: the names of %s recordings do not match --time-regex, such as %s: no recorded_at",
            f"{due.undated:,}", due.undated_example,
        )  # fmt: skip
    return due


def _binding(config: TagConfig, settings: TagSettings, loaded: Checkpoint) -> dict[str, Any]:
    """What the rows depend on: one output holds tags of one archive and network, cut in one way."""
    uri = storage.to_uri(config.input)
    return {
        "input": "a manifest" if uri.endswith(archive.MANIFEST_SUFFIX) else uri,
        "model": loaded.name,
        "weights": loaded.weights_digest(),
        "classes": list(loaded.vocabulary.names),
        "front_end": loaded.front_end.to_dict(),
        **settings.to_dict(),
    }


def _process(
    config: TagConfig,
    settings: TagSettings,
    loaded: Checkpoint,
    table: pa.Table,
    readable_uri: str | None,
    output: RunDirectory,
    directory: RunDirectory,
    lock: RunLock,
    began: float,
) -> Progress:
    """Tag the rows of a manifest into a run directory."""
    n_inference = _inference_actors(config)
    table = probe(table, PROBE_ABOVE_BYTES, readable_uri)
    manifest.write(table, directory.at(MANIFEST))
    windows = Windows(directory.at(MANIFEST), loaded.front_end, settings.window_s, settings.hop_s, readable_uri)
    device = GPU if config.use_gpu else CPU
    plan = TagPlan(
        windows,
        directory.uri,
        checkpoint.find(config.checkpoint),
        _onnx_file(config, loaded, windows, output),
        loaded.vocabulary,
        settings.top_k,
        settings.thresholds,
        config.batch_size or BATCH_SIZE[device],
        config.embeddings,
        device,
    )
    n_windows, seconds, splittable = units.extent(table, windows.grid)
    most = min(units.default_unit_segments(int(n_windows.sum())), max(1, UNIT_BYTES // windows.picture_bytes))
    work = units.plan_units(n_windows, seconds, splittable, most, config.unit_s)
    progress = Progress("tag", len(table), began, "recordings")
    with progress.shown():
        for counts in run_units(_stages(config, plan, n_inference, len(work)), work):
            lock.check()
            progress.add(counts)
    return progress


def _onnx_file(config: TagConfig, loaded: Checkpoint, windows: Windows, output: RunDirectory) -> str | None:
    """The network for ONNX Runtime, made once for an output; None where PyTorch is to compute it.

    Raises:
        ConfigError: ONNX Runtime is asked for, and can't compute this network.
    """
    if config.use_gpu or config.runtime == "torch":
        return None
    frames = loaded.network.patch_frames or loaded.front_end.n_frames(windows.grid.length)
    uri = output.at(NETWORK, f"{loaded.weights_digest()}-{frames}.onnx")
    if not storage.exists(uri):
        try:
            files = export.export(loaded, ["onnx"], frames)
        except ExportError as error:
            if config.runtime == "onnx":
                raise ConfigError(f"--runtime onnx: {error}; leave it to PyTorch") from error
            log.info("tag: computed by PyTorch, since ONNX Runtime can't: %s", error)
            return None
        storage.write_bytes(uri, files[export.FILES["onnx"]])
    return uri


def _inference_actors(config: TagConfig) -> int:
    """Processes that compute the network, apart from those that make windows; 0: each does both.

    Raises:
        ConfigError: GPUs are asked for, and there are none.
    """
    cluster.connect()
    if not config.use_gpu:
        return config.inference_actors
    share = config.gpus_per_actor
    fit = cluster.gpus() * int(1 / share)  # no process lies across two
    if fit == 0 and not (config.inference_actors and cluster.may_grow()):
        raise ConfigError(
            f"--use-gpu: this cluster has {cluster.gpus()} GPUs, and a process takes {config.gpus_per_actor:g}; drop "
            "it, or where GPUs are started on demand give --inference-actors"
        )
    return config.inference_actors or fit


def _stages(config: TagConfig, plan: TagPlan, n_inference: int, n_units: int) -> list[Stage]:
    """One worker does all of a unit; or some make its windows, and others, on GPUs, compute the network."""
    if not n_inference:
        return [Stage(tag_stages.tag_units, plan, config.num_actors, config.memory_mb)]
    n_inference = min(n_inference, n_units)
    fit = min(cluster.cpus(), cluster.memory_mb() // config.memory_mb)
    n_cutters = config.num_actors or max(1, fit - n_inference)
    num_gpus = config.gpus_per_actor if config.use_gpu else 0
    cutters = Stage(tag_stages.cut_units, plan.windows, n_cutters, config.memory_mb)
    networks = Stage(tag_stages.tag_windows, plan, n_inference, config.memory_mb, num_gpus)
    cpus = n_cutters * cutters.num_cpus + n_inference * networks.num_cpus
    if cpus > cluster.cpus() and not cluster.may_grow():
        raise ConfigError(
            f"{n_cutters} processes that make windows and {n_inference} that compute the network take a CPU each, and "
            f"this machine has {cluster.cpus()}: give fewer --num-actors or --inference-actors"
        )
    needed_mb = (n_cutters + n_inference) * config.memory_mb
    if needed_mb > cluster.memory_mb() and not cluster.may_grow():
        raise ConfigError(
            f"{n_cutters} processes that make windows and {n_inference} that compute the network take {needed_mb:,} "
            f"MB, and Ray has {cluster.memory_mb():,} on this machine: give fewer --num-actors, or less --memory-mb"
        )
    return [cutters, networks]


def _sum_up(config: TagConfig, settings: TagSettings, directory: RunDirectory, due: Due, progress: Progress) -> str:
    """Write the run's summary and tell it."""
    tried = due.table["clip_id"].filter(pa.array(due.tried))
    summary = tag_summary.count(directory, len(due.table), tried, config.max_reject_fraction)
    summary["settings"] = settings.to_dict()
    summary["this_run"] = progress.summary()
    directory.finish(summary)
    total = summary["total"]
    recordings = total["recordings"]
    again = recordings["rejected_again"]
    log.info(
        "tag: %s: %s recordings = %s ok + %s partial + %s rejected%s; %s windows, %s tags, %.2f h of audio in %.0f s",
        summary["status"], f"{recordings['planned']:,}", f"{recordings['ok']:,}", f"{recordings['partial']:,}",
        f"{recordings['rejected']:,}", f" ({again:,} of these not for the first time)" if again else "",
        f"{total['windows']:,}", f"{total['tags']:,}", total["audio_s"] / 3600,
        summary["this_run"]["wall_s"],
    )  # fmt: skip
    _log_rejects(directory)
    log_outcome(directory, summary)
    return summary["status"]


def _tell_of_killed(one: TagRun) -> None:
    """What an earlier run did before it was killed: nobody has said it yet."""
    total = tag_summary.total(one.directory)
    one.directory.finish({"job": "tag", "status": "killed", "total": total})
    recordings = total["recordings"]
    log.warning(
        "tag: run %s did not end: %s of its recordings are dealt with, %s of them wholly or partly rejected; the "
        "others are due again",
        one.name, f"{sum(recordings.values()):,}", f"{recordings['partial'] + recordings['rejected']:,}",
    )  # fmt: skip
    _log_rejects(one.directory)


def _log_rejects(directory: RunDirectory) -> None:
    rejects = tag_summary.read_rejects(directory)
    log_rejects(rejects.slice(0, MOST_REJECTS_LOGGED).to_pylist(), len(rejects))


def _remove_old(keep_days: float, runs: Sequence[TagRun]) -> None:
    """Remove those of some runs that began longer ago; the ledger has what they dealt with."""
    oldest = (datetime.now(UTC) - timedelta(days=keep_days)).strftime(RUN_NAME)
    for one in runs:
        if one.name < oldest:
            log.info("tag: removing run %s, older than --keep-days %g", one.name, keep_days)
            storage.remove_all(one.directory.at(rundir.DATA))  # first: without it nothing is left to close
            storage.remove_all(one.directory.uri)
