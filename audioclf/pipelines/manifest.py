"""A folder or prefix of audio files → the manifest."""

import logging
from collections import Counter
from dataclasses import replace
from typing import assert_never

import ray

from audioclf import layouts, manifest, storage
from audioclf.audio import decode
from audioclf.config import ManifestConfig
from audioclf.errors import ClipError
from audioclf.manifest import Clip
from audioclf.pipelines import cluster

log = logging.getLogger("audioclf")

PROBE_CHUNK = 64


def run(config: ManifestConfig) -> str:
    """List, label, probe, deal folds, write."""
    listing = layouts.list_audio(storage.to_uri(config.input))
    clips = _lay_out(config, listing)[: config.limit]
    regexes = layouts.Regexes(config.label_regex, config.fold_regex, config.source_regex, config.time_regex)
    clips = [regexes.apply(clip) for clip in clips]
    clips = _probe(clips, None if config.probe else config.probe_above_mb * 1e6, config.dry_run)
    if config.folds:
        clips = layouts.deal_folds(clips, config.folds)
    manifest.check(clips)
    _report(clips, listing.skipped)
    if not config.dry_run:
        manifest.write(manifest.to_table(clips), storage.to_uri(config.output))
        log.info("wrote %s", config.output)
    return "ok"


def _lay_out(config: ManifestConfig, listing: layouts.Listing) -> list[Clip]:
    metadata = storage.read_text(storage.to_uri(config.metadata)) if config.metadata else ""
    name = config.metadata or ""
    match config.layout:
        case "folders":
            return layouts.from_folders(listing.files, labelled=config.label_regex is not None)
        case "flat":
            return layouts.from_flat(listing.files)
        case "csv":
            return layouts.from_csv(listing.files, metadata, name)
        case "esc50":
            return layouts.from_table(listing.files, metadata, name, layouts.ESC50)
        case "urbansound8k":
            return layouts.from_table(listing.files, metadata, name, layouts.URBANSOUND8K)
        case _:
            assert_never(config.layout)


def _probe(clips: list[Clip], above_bytes: float | None, dry_run: bool) -> list[Clip]:
    """Fill in durations, rates and channels of all clips, or of the large ones; what can't be read keeps none."""
    wanted = [i for i, clip in enumerate(clips) if above_bytes is None or clip.size_bytes > above_bytes]
    if not wanted or dry_run:
        return clips
    infos = probe_all([clips[i].uri for i in wanted])
    probed = list(clips)
    for i, info in zip(wanted, infos, strict=True):
        if info is not None:
            probed[i] = replace(
                clips[i], duration_s=info.duration_s, sample_rate=info.sample_rate, channels=info.channels
            )
    log.info("probed %d files, %d of them unreadable", len(infos), sum(info is None for info in infos))
    return probed


def probe_all(uris: list[str]) -> list[decode.AudioInfo | None]:
    """The headers of many files, read on the cluster; None for one that can't be read."""
    cluster.connect()
    probe_chunk = ray.remote(num_cpus=0.5)(_probe_chunk)
    chunks = [uris[i : i + PROBE_CHUNK] for i in range(0, len(uris), PROBE_CHUNK)]
    return [info for chunk in ray.get([probe_chunk.remote(chunk) for chunk in chunks]) for info in chunk]


def _probe_chunk(uris: list[str]) -> list[decode.AudioInfo | None]:
    infos: list[decode.AudioInfo | None] = []
    for uri in uris:
        try:
            with storage.open_ranged(uri) as file:
                infos.append(decode.probe(file, storage.display(uri)))
        except ClipError:  # extract rejects it with its reason
            infos.append(None)
    return infos


def _report(clips: list[Clip], skipped: dict[str, int]) -> None:
    by_class = Counter(label for clip in clips for label in clip.labels)
    by_fold = Counter(clip.fold for clip in clips)
    log.info("%d clips, %d classes", len(clips), len(by_class))
    for label, count in sorted(by_class.items())[:50]:
        log.info("  %-30s %6d", label, count)
    if set(by_fold) != {None}:
        log.info("folds: %s", ", ".join(f"{fold}: {count}" for fold, count in sorted(by_fold.items(), key=str)))
    if skipped:
        found = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(skipped.items()))
        log.info("passed over, not audio by name: %s", found)
