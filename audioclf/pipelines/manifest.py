"""A folder or prefix of audio files → the manifest."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import assert_never

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

from audioclf import archive, audioset, fetch, folds, isolation, labels, layouts, manifest, storage
from audioclf.audio.recording import AudioInfo
from audioclf.config import ManifestConfig
from audioclf.errors import ClipError, ConfigError, UnitCrashedError
from audioclf.listing import FileTable, Heartbeat, batches
from audioclf.manifest import Clip
from audioclf.pipelines import cluster

log = logging.getLogger("audioclf")

PROBE_CHUNK = 64
PROBE_DEATHS = 4
"""Workers that may die over one chunk, all but the first of which take care."""
PROBES_AHEAD = 4  # chunks for each CPU that are queued: a worker never waits for the driver


def run(config: ManifestConfig) -> str:
    """List, label, probe, deal folds, write."""
    pa.set_memory_pool(pa.system_memory_pool())  # pyarrow's own keeps what is freed: a gigabyte for five million files
    regexes = layouts.Regexes(
        config.label_regex, config.fold_regex, config.source_regex, config.time_regex, config.time_zone
    )
    _ = regexes.recording_time  # a wrong one is told before millions of files are listed
    storage.reach(config.input, config.output)
    _check_output(config.output)
    listing = layouts.list_audio(storage.to_uri(config.input))
    log.info("%s: %s audio files", config.input, f"{len(listing.files):,}")
    clips = _table(_lay_out(config, listing.files), regexes, config.limit)
    if not len(clips):
        raise ConfigError(f"{config.metadata}: names no clips")
    passed_over = listing.passed_over
    del listing  # its memory is wanted for what follows
    if not config.dry_run:
        clips = probe(clips, None if config.probe else config.probe_above_mb * 1e6)
    if config.folds:
        clips = folds.deal(clips, config.folds)
    manifest.check(clips)
    _report(clips, passed_over)
    if not config.dry_run:
        manifest.write(clips, storage.to_uri(config.output))
        log.info("wrote %s", config.output)
    return "ok"


def _check_output(output: str) -> None:
    path = storage.local_path(storage.to_uri(output))
    if path is not None and path.is_dir():
        raise ConfigError(
            f"--output {output}: is a directory; give the name of a file, such as {output}/manifest.parquet"
        )
    if not output.endswith(archive.MANIFEST_SUFFIX):
        log.warning(
            "--output %s: tag takes a file for a manifest if its name ends in %s", output, archive.MANIFEST_SUFFIX
        )


def _lay_out(config: ManifestConfig, files: FileTable) -> Iterator[list[Clip]]:
    """The clips, batch by batch."""
    name = config.metadata or ""
    match config.layout:
        case "folders":
            for batch in batches(files):
                yield layouts.from_folders(batch, labelled=config.label_regex is not None)
        case "flat":
            yield from map(layouts.from_flat, batches(files))
        case "csv":
            for rows in batches(_metadata_rows(name)):
                yield layouts.from_csv(files, rows, name)
        case "esc50" | "urbansound8k":
            layout = layouts.ESC50 if config.layout == "esc50" else layouts.URBANSOUND8K
            for rows in batches(_metadata_rows(name)):
                yield layouts.from_table(files, rows, name, layout)
        case "audioset":
            segments = audioset.read_segments(name)
            yield from map(segments.clips, batches(files))
            segments.report()
        case _:
            assert_never(config.layout)


def _metadata_rows(name: str) -> Iterator[layouts.Row]:
    return layouts.rows(storage.read_text(storage.to_uri(name)), name)


def _table(batches_of_clips: Iterable[list[Clip]], regexes: layouts.Regexes, limit: int | None) -> pa.Table:
    """The first clips as rows, with what the regexes find in their paths."""
    heartbeat = Heartbeat("manifest", "clips")
    tables, n_rows = [manifest.to_table([])], 0
    for clips in batches_of_clips:
        clips = clips if limit is None else clips[: limit - n_rows]
        tables.append(manifest.to_table(map(regexes.apply, clips)))
        n_rows += len(clips)
        heartbeat.show(n_rows)
        if n_rows == limit:
            break
    return pa.concat_tables(tables)


def probe(clips: pa.Table, above_bytes: float | None, readable_uri: str | None = None) -> pa.Table:
    """Fill in durations, rates and channels where they are not known, of large clips alone or of all; what can't be
    read keeps none.

    Args:
        clips: a manifest.
        above_bytes: clips up to this size are left alone; None: none are.
        readable_uri: of a clip that can be read; if None, one is looked for among those that are probed.
    """
    unknown = np.isnan(clips["duration_s"].to_numpy())
    wanted = np.flatnonzero(
        unknown if above_bytes is None else unknown & (clips["size_bytes"].to_numpy() > above_bytes)
    )
    if not len(wanted):
        return clips
    duration_s = clips["duration_s"].to_numpy().copy()
    sample_rate, channels = (clips[name].fill_null(0).to_numpy().copy() for name in ("sample_rate", "channels"))
    uris = clips["uri"].take(pa.array(wanted))
    heartbeat, done, unreadable = Heartbeat("probe", f"of {len(wanted):,} files"), 0, 0
    for start, infos in _probe_chunks(uris, readable_uri):
        for row, info in zip(wanted[start : start + len(infos)].tolist(), infos, strict=True):
            if info is None:
                unreadable += 1
                continue
            duration_s[row] = np.nan if info.duration_s is None else info.duration_s
            sample_rate[row], channels[row] = info.sample_rate, info.channels
        done += len(infos)
        heartbeat.show(done)
    log.info("probed %d files, %d of them unreadable", done, unreadable)
    clips = manifest.with_column(clips, "duration_s", pa.array(duration_s, mask=np.isnan(duration_s)))
    clips = manifest.with_column(clips, "sample_rate", pa.array(sample_rate, mask=channels == 0))
    return manifest.with_column(clips, "channels", pa.array(channels, mask=channels == 0))


def probe_all(uris: list[str]) -> list[AudioInfo | None]:
    """The headers of many files, read on the cluster; None for one that can't be read."""
    found: list[AudioInfo | None] = [None] * len(uris)
    for start, infos in _probe_chunks(pa.chunked_array([pa.array(uris, pa.string())])):
        found[start : start + len(infos)] = infos
    return found


def _probe_chunks(
    uris: pa.ChunkedArray, readable_uri: str | None = None
) -> Iterator[tuple[int, list[AudioInfo | None]]]:
    """Headers of so many files, and the row of the first of them, as they come in."""
    readable_uri = readable_uri or fetch.find_readable(fetch.spread(uris))
    cluster.connect()
    probe_chunk = ray.remote(num_cpus=0.5, max_retries=0)(_probe_chunk)
    starts = iter(range(0, len(uris), PROBE_CHUNK))
    in_flight: dict[ray.ObjectRef, int] = {}
    deaths: Counter[int] = Counter()

    def send(start: int) -> None:
        chunk = uris.slice(start, PROBE_CHUNK).to_pylist()
        in_flight[probe_chunk.remote(chunk, readable_uri, deaths[start] > 0)] = start

    while True:
        ahead = PROBES_AHEAD * max(1, cluster.cpus())
        for start in itertools.islice(starts, max(0, ahead - len(in_flight))):
            send(start)
        if not in_flight:
            return
        (done,), _ = ray.wait(list(in_flight), num_returns=1)
        start = in_flight.pop(done)
        try:
            infos = ray.get(done)
        except NodeDiedError:
            send(start)
            continue
        except (WorkerCrashedError, OutOfMemoryError) as error:  # one of its files may be to blame
            deaths[start] += 1
            if deaths[start] > PROBE_DEATHS:
                raise UnitCrashedError(
                    f"the worker that reads headers died {deaths[start]} times over the files from "
                    f"{storage.display(uris[start].as_py())} on; if it ran out of memory, take a machine that has more"
                ) from error
            send(start)
            continue
        except RayError as error:
            raise cluster.own_error(error) from error
        yield start, infos


def _probe_chunk(uris: list[str], readable_uri: str | None, careful: bool) -> list[AudioInfo | None]:
    """The headers of some files; None for one that can't be read, or with care, that kills the process reading it."""
    infos: list[AudioInfo | None] = []
    with isolation.Trials(fetch.probe) as trials:
        for uri in uris:
            try:
                survives = not careful or trials.survives(uri, readable_uri)
                infos.append(fetch.probe(uri, readable_uri) if survives else None)
            except ClipError:  # extract rejects it with its reason
                infos.append(None)
    return infos


def _report(clips: pa.Table, passed_over: str) -> None:
    by_class = _counts(clips["labels"].combine_chunks().flatten())
    by_fold = _counts(clips["fold"])
    log.info("%d clips, %d classes", len(clips), len(by_class))
    for label, count in sorted(by_class.items())[:50]:
        log.info("  %-30s %6d", label, count)
    unlabelled = int((clips["labels"].combine_chunks().value_lengths().to_numpy() == 0).sum())
    if by_class and unlabelled:
        log.warning("%s of %s clips have no label", f"{unlabelled:,}", f"{len(clips):,}")
    for names in labels.alike(map(str, by_class)):
        log.warning("classes that may be meant as one: %s", ", ".join(names))
    if set(by_fold) != {None}:
        log.info("folds: %s", ", ".join(f"{fold}: {count}" for fold, count in sorted(by_fold.items(), key=str)))
    if passed_over:
        log.info("passed over, not audio by name: %s", passed_over)


def _counts(values: pa.Array | pa.ChunkedArray) -> dict[str | int | None, int]:
    return {entry["values"]: entry["counts"] for entry in values.value_counts().to_pylist()}
