"""The check at the end of every extraction: every planned row is in the shards or the rejects, exactly once."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from audioclf import schema, shards, storage
from audioclf.errors import ConservationError
from audioclf.extraction import ExtractPlan
from audioclf.units import Unit

THREADS = 8

Key = tuple[str, int | None, int | None]
"""clip_id, segment_index, copy_index; nulls for a clip rejected as a whole."""


@dataclass
class Totals:
    """What is committed, summed over units."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counter[str]] = field(default_factory=lambda: {"segments": Counter(), "copies": Counter()})
    duplicates: list[list[str]] = field(default_factory=list)
    """Ids of clips whose audio is the same and whose folds differ."""


def check(plan: ExtractPlan, units: list[Unit], clip_ids: pa.ChunkedArray) -> Totals:
    """Compare what is committed with what was planned, and sum it up.

    Args:
        plan: of the extraction.
        units: all of them.
        clip_ids: of the manifest, in order.

    Raises:
        ConservationError: a planned row is missing, or there twice.
    """
    committed = storage.names_in(storage.join(plan.output_uri, shards.DATA))
    if missing := [unit.name for unit in units if unit.name not in committed]:
        raise ConservationError(f"{len(missing)} units have no file in {shards.DATA}/, the first is {missing[0]}")
    reject_names = set(storage.names_in(storage.join(plan.output_uri, shards.REJECTS)))
    totals = Totals()
    by_digest: defaultdict[str, set[tuple[str, int | None]]] = defaultdict(set)

    def read(unit: Unit) -> tuple[Unit, pa.Table, pa.Table | None]:
        data = storage.join(plan.output_uri, shards.DATA, unit.name)
        columns = ["clip_id", "segment_index", "copy_index", "fold", "content_digest"]
        rejects = None
        if unit.name in reject_names:
            rejects = shards.read_table(storage.join(plan.output_uri, shards.REJECTS, unit.name))
        return unit, shards.read_table(data, columns), rejects

    with ThreadPoolExecutor(THREADS) as pool:
        for unit, data, rejects in pool.map(read, units):
            counts = json.loads((data.schema.metadata or {})[schema.META_UNIT])
            if counts["rejects"] == 0:
                rejects = None  # left by an attempt that was not committed
            expected = clip_ids.slice(unit.row_start, unit.row_stop - unit.row_start).to_pylist()
            written, rejected = _keys(data), [] if rejects is None else _keys(rejects)
            check_unit(unit.name, expected, written, rejected, len(plan.copy_sets))
            _add(totals, counts, written, rejected)
            columns = [data[name].to_pylist() for name in ("clip_id", "fold", "content_digest")]
            for clip_id, fold, digest in zip(*columns, strict=True):
                by_digest[digest].add((clip_id, fold))
    totals.duplicates = [
        sorted(clip_id for clip_id, _ in clips) for clips in by_digest.values() if len({fold for _, fold in clips}) > 1
    ]
    return totals


def check_unit(name: str, clip_ids: list[str], written: Sequence[Key], rejected: Sequence[Key], n_copies: int) -> None:
    """Raise ConservationError unless the rows of one unit are those planned, each once.

    Args:
        name: of the unit, for the message.
        clip_ids: planned.
        written, rejected: keys of the rows committed.
        n_copies: rows of each segment, the original included.
    """
    keys = [*written, *rejected]
    if repeated := [key for key, count in Counter(keys).items() if count > 1]:
        raise ConservationError(f"{name}: {len(repeated)} rows are there more than once, the first is {repeated[0]}")
    copies_of: defaultdict[str, defaultdict[int | None, set[int | None]]] = defaultdict(lambda: defaultdict(set))
    for clip_id, segment, copy in keys:
        copies_of[clip_id][segment].add(copy)
    if strangers := copies_of.keys() - set(clip_ids):
        raise ConservationError(f"{name}: holds clips that are not in its part of the manifest: {min(strangers)}")
    for clip_id in clip_ids:
        segments = copies_of.get(clip_id)
        if not segments:
            raise ConservationError(f"{name}: clip {clip_id} is neither in the shards nor in the rejects")
        if None in segments:
            if len(segments) > 1:
                raise ConservationError(f"{name}: clip {clip_id} is rejected as a whole and has rows")
        elif segments != {i: set(range(n_copies)) for i in range(len(segments))}:
            raise ConservationError(f"{name}: clip {clip_id} lacks segments or copies")


def _keys(table: pa.Table) -> list[Key]:
    return list(zip(*(table[name].to_pylist() for name in ("clip_id", "segment_index", "copy_index")), strict=True))


def _add(totals: Totals, counts: dict[str, Any], written: list[Key], rejected: list[Key]) -> None:
    for name, value in counts.items():
        if name == "reasons":
            totals.reasons.update(value)
        elif name == "flags":
            totals.flags.update(value)
        else:
            totals.counts[name] += value
    for outcome, keys in (("written", written), ("rejected", rejected)):
        for _, segment, copy in keys:
            if segment is not None:
                totals.rows["copies" if copy else "segments"][outcome] += 1
