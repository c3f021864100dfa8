"""The check at the end of every extraction: every planned row is in the shards or the rejects, exactly once."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from audioclf import parquet_files, rundir, shards, storage
from audioclf.errors import ConservationError
from audioclf.extraction import ExtractPlan
from audioclf.listing import batches
from audioclf.units import Unit

THREADS = 8

COLUMNS = ["clip_id", "segment_index", "copy_index", "fold", "flags", "content_digest"]

Key = tuple[str, int | None, int | None]
"""clip_id, segment_index, copy_index; nulls for a clip rejected as a whole, a null copy for all copies."""

Status = Literal["ok", "partial", "rejected"]


@dataclass
class Totals:
    """What is committed, summed over units."""

    clips: Counter[Status] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    """Clips with a flag on any segment."""
    rows: dict[str, Counter[str]] = field(default_factory=lambda: {"segments": Counter(), "copies": Counter()})
    audio_s: float = 0.0
    bytes: int = 0
    duplicates: list[list[str]] = field(default_factory=list)
    """Ids of clips that have the same audio in some segment, and whose folds differ."""


@dataclass
class _Recording:
    """What the units of a long recording say together."""

    statuses: set[Status] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)


def check(plan: ExtractPlan, units: list[Unit], clips: pa.Table) -> Totals:
    """Compare what is committed with what was planned, and sum it up.

    Args:
        plan: of the extraction.
        units: all of them.
        clips: clip_id of the manifest, in order; and labels, if there is a policy.

    Raises:
        ConservationError: a planned row is missing, or there twice.
    """
    committed = storage.names_in(storage.join(plan.output_uri, rundir.DATA))
    if missing := [unit.name for unit in units if unit.name not in committed]:
        raise ConservationError(f"{len(missing)} units have no file in {rundir.DATA}/, the first is {missing[0]}")
    reject_names = set(storage.names_in(storage.join(plan.output_uri, rundir.REJECTS)))
    totals = Totals()
    long: defaultdict[str, _Recording] = defaultdict(_Recording)
    digests: list[pa.Table] = []

    def read(unit: Unit) -> tuple[Unit, pa.Table, dict[str, Any], pa.Table | None]:
        data, counts = shards.read_unit(storage.join(plan.output_uri, rundir.DATA, unit.name), COLUMNS)
        rejects = None
        if unit.name in reject_names and counts["rejects"]:  # else left by an attempt that was not committed
            rejects = parquet_files.read(storage.join(plan.output_uri, rundir.REJECTS, unit.name))
        return unit, data, counts, rejects

    with ThreadPoolExecutor(THREADS) as pool:
        # Batch by batch: all at once, what is read would pile up.
        for unit, data, counts, rejects in (one for some in batches(units, 64) for one in pool.map(read, some)):
            of_unit = clips.slice(unit.row_start, unit.row_stop - unit.row_start)
            expected, copies = of_unit["clip_id"].to_pylist(), _copies(plan, of_unit)
            written, rejected = _keys(data), [] if rejects is None else _keys(rejects)
            statuses = check_unit(unit, expected, written, rejected, copies, counts["segments"])
            flags = _flags(data)
            if unit.segments_total:
                long[expected[0]].statuses.update(statuses.values())
                long[expected[0]].flags |= flags.keys()
            else:
                totals.clips.update(statuses.values())
                totals.flags.update({flag: len(clips) for flag, clips in flags.items()})
            _add(totals, counts, written, rejected, dict(zip(expected, copies, strict=True)))
            digests.append(data.select(["content_digest", "clip_id", "fold"]).filter(_heard(data)))
    for recording in long.values():
        status: Status = next(iter(recording.statuses)) if len(recording.statuses) == 1 else "partial"
        totals.clips[status] += 1
        totals.flags.update(recording.flags)
    totals.duplicates = _same_audio_in_different_folds(pa.concat_tables(digests))
    return totals


def check_unit(
    unit: Unit,
    clip_ids: list[str],
    written: Sequence[Key],
    rejected: Sequence[Key],
    copies: Sequence[frozenset[int]],
    n_segments: int,
) -> dict[str, Status]:
    """The status of each clip of a unit.

    Args:
        unit: of work.
        clip_ids: planned.
        written, rejected: keys of the rows committed.
        copies: of each clip, the copy_index of every row that its segments have.
        n_segments: of the unit's clips, as the task counted them when it cut them.

    Raises:
        ConservationError: a planned row is missing, or there twice, or one was not planned.
    """
    keys = [*written, *rejected]
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ConservationError(f"{unit.name}: {len(repeated)} rows are there more than once: first {repeated[0]}")
    copies_of: defaultdict[str, defaultdict[int | None, set[int | None]]] = defaultdict(lambda: defaultdict(set))
    for clip_id, segment, copy in keys:
        copies_of[clip_id][segment].add(copy)
    if strangers := copies_of.keys() - set(clip_ids):
        raise ConservationError(f"{unit.name}: holds clips that are not in its part of the manifest: {min(strangers)}")
    found = 0
    for clip_id, every in zip(clip_ids, copies, strict=True):
        segments = copies_of.get(clip_id)
        if not segments:
            raise ConservationError(f"{unit.name}: clip {clip_id} is neither in the shards nor in the rejects")
        if None in segments:
            if len(segments) > 1:
                raise ConservationError(f"{unit.name}: clip {clip_id} is rejected as a whole and has rows")
            continue
        stop = unit.stop_segment or len(segments)
        expected: set[int | None] = set(range(unit.first_segment, stop))
        if segments.keys() != expected or any(copies not in (every, {None}) for copies in segments.values()):
            raise ConservationError(f"{unit.name}: clip {clip_id} lacks segments or copies")
        found += len(segments)
    if found != n_segments:
        raise ConservationError(f"{unit.name}: {n_segments} segments were cut, and {found} are there")
    has_rows, lost_some = {key[0] for key in written}, {key[0] for key in rejected}
    return {
        clip_id: "ok" if clip_id not in lost_some else "partial" if clip_id in has_rows else "rejected"
        for clip_id in clip_ids
    }


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in ("clip_id", "segment_index", "copy_index")), strict=True))


def _flags(data: pa.Table) -> dict[str, set[str]]:
    """The clips that carry each flag."""
    clips: defaultdict[str, set[str]] = defaultdict(set)
    for clip_id, flags in zip(data["clip_id"].to_pylist(), data["flags"].to_pylist(), strict=True):
        for flag in flags:
            clips[flag].add(clip_id)
    return clips


def _heard(data: pa.Table) -> pa.Array:
    """Which rows are originals with sound: silences are all alike."""
    columns = zip(data["copy_index"].to_pylist(), data["flags"].to_pylist(), strict=True)
    return pa.array([copy_index == 0 and "silent" not in flags for copy_index, flags in columns], pa.bool_())


def _same_audio_in_different_folds(digests: pa.Table) -> list[list[str]]:
    grouped = digests.group_by("content_digest").aggregate([("fold", "count_distinct", pc.CountOptions(mode="all"))])
    several = grouped.filter(pc.field("fold_count_distinct") > 1)["content_digest"].combine_chunks()
    same = digests.filter(pc.field("content_digest").isin(several))
    clips: defaultdict[str, set[str]] = defaultdict(set)
    for digest, clip_id in zip(same["content_digest"].to_pylist(), same["clip_id"].to_pylist(), strict=True):
        clips[digest].add(clip_id)
    return [list(group) for group in sorted({tuple(sorted(group)) for group in clips.values()})]


def _copies(plan: ExtractPlan, clips: pa.Table) -> list[frozenset[int]]:
    """The copy_index of every row that a segment of each clip has."""
    labels = clips["labels"].to_pylist() if plan.augmentation.policy else [()] * len(clips)
    known: dict[tuple[str, ...], frozenset[int]] = {}
    for some in map(tuple, labels):
        if some not in known:
            known[some] = frozenset(copy.index for copy in plan.augmentation.copies_of(some))
    return [known[tuple(some)] for some in labels]


def _add(
    totals: Totals, counts: dict[str, Any], written: list[Key], rejected: list[Key], copies: dict[str, frozenset[int]]
) -> None:
    totals.audio_s += counts["audio_s"]
    totals.bytes += counts["bytes"]
    totals.reasons.update(counts["reasons"])
    for outcome, keys in (("written", written), ("rejected", rejected)):
        for clip_id, segment, copy in keys:
            if segment is not None and copy is None:
                totals.rows["segments"][outcome] += 1
                totals.rows["copies"][outcome] += len(copies[clip_id]) - 1
            elif segment is not None:
                totals.rows["copies" if copy else "segments"][outcome] += 1
