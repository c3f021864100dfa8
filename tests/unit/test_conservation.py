"""Every planned row is written or rejected, exactly once: properties, and whole run directories."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audioclf import conservation, parquet_files, schema, storage
from audioclf.audio.frontend import get_front_end
from audioclf.augmentation import Augmentation
from audioclf.conservation import Key
from audioclf.errors import ConservationError
from audioclf.extraction import ExtractPlan
from audioclf.shard_writer import ShardWriter
from audioclf.units import Unit

SPEC = get_front_end("logmel44k")
ORIGINAL = frozenset({0})


@st.composite
def units(draw: st.DrawFn) -> tuple[list[str], list[Key], list[Key], int]:
    """Clips, keys written, keys rejected, copies: a unit whose rows add up."""
    n_copies = draw(st.integers(1, 3))
    clip_ids = [f"clip{i}" for i in range(draw(st.integers(1, 5)))]
    written: list[Key] = []
    rejected: list[Key] = []
    for clip_id in clip_ids:
        n_segments = draw(st.integers(0, 3))
        if n_segments == 0:
            rejected.append((clip_id, None, None))
        for segment in range(n_segments):
            if draw(st.integers(0, 4)) == 0:
                rejected.append((clip_id, segment, None))  # all its copies
                continue
            for copy in range(n_copies):
                (rejected if draw(st.booleans()) else written).append((clip_id, segment, copy))
    return clip_ids, draw(st.permutations(written)), draw(st.permutations(rejected)), n_copies


def n_cut(written: list[Key], rejected: list[Key]) -> int:
    return len({key[:2] for key in written + rejected if key[1] is not None})


def check(
    clip_ids: list[str], written: list[Key], rejected: list[Key], n_copies: int, n_segments: int | None = None
) -> dict[str, conservation.Status]:
    unit = Unit(0, 0, len(clip_ids))
    cut = n_cut(written, rejected) if n_segments is None else n_segments
    return conservation.check_unit(unit, clip_ids, written, rejected, [frozenset(range(n_copies))] * len(clip_ids), cut)


@given(units())
def test_any_unit_whose_rows_add_up_passes(unit: tuple[list[str], list[Key], list[Key], int]) -> None:
    clip_ids, written, rejected, n_copies = unit
    statuses = check(clip_ids, written, rejected, n_copies)
    for clip_id in clip_ids:
        kept, lost = ({key[0] for key in keys} >= {clip_id} for keys in (written, rejected))
        assert (
            statuses[clip_id] == {(True, False): "ok", (True, True): "partial", (False, True): "rejected"}[kept, lost]
        )


@given(units(), st.data())
def test_any_row_there_twice_is_found(unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject) -> None:
    clip_ids, written, rejected, n_copies = unit
    again = data.draw(st.sampled_from(written + rejected))
    for more_written, more_rejected in (([again], []), ([], [again])):
        with pytest.raises(ConservationError, match="more than once"):
            check(clip_ids, written + more_written, rejected + more_rejected, n_copies)


@given(units(), st.data())
def test_any_row_lost_is_found(unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject) -> None:
    clip_ids, written, rejected, n_copies = unit
    lost = data.draw(st.sampled_from(written + rejected))
    cut = n_cut(written, rejected)
    with pytest.raises(ConservationError, match=f"{lost[0]}|segments were cut"):
        check(clip_ids, [k for k in written if k != lost], [k for k in rejected if k != lost], n_copies, cut)


@given(units(), st.data())
def test_any_stranger_is_found(unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject) -> None:
    clip_ids, written, rejected, n_copies = unit
    stranger = data.draw(st.sampled_from(clip_ids))
    others = [clip_id for clip_id in clip_ids if clip_id != stranger]
    with pytest.raises(ConservationError, match=f"not in its part of the manifest: {stranger}"):
        check(others, written, rejected, n_copies)


@given(units(), st.integers(3, 9), st.data())
def test_any_copy_too_many_is_found(
    unit: tuple[list[str], list[Key], list[Key], int], copy: int, data: st.DataObject
) -> None:
    clip_ids, written, rejected, n_copies = unit
    assume(written)
    clip_id, segment, _ = data.draw(st.sampled_from(written))
    with pytest.raises(ConservationError, match=f"{clip_id} lacks segments or copies"):
        check(clip_ids, [*written, (clip_id, segment, copy)], rejected, n_copies)


# --- whole run directories


def row(clip_id: str, segment_index: int = 0, copy_index: int = 0) -> dict[str, Any]:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}", "segment_index": segment_index, "start_s": 0.0,
        "copy_index": copy_index, "transform_set": "none", "transform_params": "{}", "valid_frames": 2,
        "labels": [], "fold": None, "source_id": clip_id, "flags": [], "content_digest": clip_id,
    }  # fmt: skip


def reject(clip_id: str, segment_index: int | None = None, copy_index: int | None = None) -> dict[str, Any]:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}", "segment_index": segment_index, "copy_index": copy_index,
        "stage": "decode", "error": "DecodeError", "message": "broken",
    }  # fmt: skip


def commit(folder: Path, unit: Unit, rows: list[dict[str, Any]], n_rejects: int, n_segments: int) -> None:
    """A unit's data file as a task writes it."""
    counts = {
        "segments": n_segments, "rows": len(rows), "rejects": n_rejects, "audio_s": 1.5, "bytes": 10,
        "reasons": {"DecodeError": n_rejects} if n_rejects else {},
    }  # fmt: skip
    with (
        storage.create(storage.to_uri(str(folder / "data" / unit.name))) as file,
        ShardWriter(file, SPEC, 1024, "digest") as writer,
    ):
        for one in rows:
            writer.add(one, np.zeros((128, 2), np.float32))
        writer.finish(counts)


def write_rejects(folder: Path, unit: Unit, rejects: list[dict[str, Any]]) -> None:
    storage.write_bytes(
        storage.to_uri(str(folder / "rejects" / unit.name)), parquet_files.encode(rejects, schema.REJECT)
    )


def plan(folder: Path, copies: int = 1) -> ExtractPlan:
    sets = ("ts",) if copies > 1 else ()
    return ExtractPlan("", storage.to_uri(str(folder)), SPEC, 0.02, "digest", Augmentation(sets, copies - 1 or 1))


def ids(*names: str) -> pa.Table:
    return pa.table({"clip_id": pa.array(names, pa.string())})


WRITTEN = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0), ("b", 0, 1)]
REJECTED = [("a", 1, 1), ("c", None, None)]


@pytest.mark.parametrize(
    ("clip_ids", "written", "rejected", "says"),
    [
        (["a", "b", "c", "d"], WRITTEN, REJECTED, "clip d is neither"),
        (["a", "b"], WRITTEN, REJECTED, "not in its part of the manifest: c"),
        (["a", "b", "c"], [*WRITTEN, ("b", 0, 1)], REJECTED, "more than once"),
        (["a", "b", "c"], WRITTEN, [*REJECTED, ("b", 0, 1)], "more than once"),
        (["a", "b", "c"], WRITTEN, [*REJECTED, ("b", None, None)], "rejected as a whole and has rows"),
        (["a", "b", "c"], WRITTEN, [*REJECTED, ("b", 0, None)], "clip b lacks segments or copies"),
        (["a", "b", "c"], WRITTEN[:-1], REJECTED, "clip b lacks segments or copies"),
        (["a", "b", "c"], WRITTEN[:2] + WRITTEN[3:], REJECTED[1:], "3 segments were cut, and 2 are there"),
        (["a", "b", "c"], [("a", 2, 0), ("a", 2, 1), *WRITTEN[:2], *WRITTEN[3:]], REJECTED[1:], "clip a lacks"),
    ],
)
def test_rows_that_do_not_add_up_are_named(clip_ids: list, written: list, rejected: list, says: str) -> None:
    with pytest.raises(ConservationError, match=says):
        check(clip_ids, written, rejected, 2, 3)


def test_a_part_of_a_recording_has_just_its_segments() -> None:
    unit = Unit(1, 0, 1, 2, 4, 9)
    assert conservation.check_unit(unit, ["a"], [("a", 2, 0), ("a", 3, 0)], [], [ORIGINAL], 2) == {"a": "ok"}
    for keys in ([("a", 2, 0)], [("a", 0, 0), ("a", 1, 0)], [("a", 2, 0), ("a", 3, 0), ("a", 4, 0)]):
        with pytest.raises(ConservationError, match="clip a lacks"):
            conservation.check_unit(unit, ["a"], keys, [], [ORIGINAL], len(keys))


def test_a_recording_in_parts_is_one_clip(tmp_path: Path) -> None:
    parts = [Unit(0, 0, 1, 0, 1, 2), Unit(1, 0, 1, 1, 2, 2)]
    commit(tmp_path, parts[0], [{**row("a"), "flags": ["silent"]}], n_rejects=0, n_segments=1)
    write_rejects(tmp_path, parts[1], [reject("a", 1)])
    commit(tmp_path, parts[1], [], n_rejects=1, n_segments=1)
    totals = conservation.check(plan(tmp_path), parts, ids("a"))
    assert (totals.clips, totals.flags) == ({"partial": 1}, {"silent": 1})


def test_the_same_audio_in_two_folds_is_reported(tmp_path: Path) -> None:
    def clip(name: str, fold: int | None, digest: str, *flags: str) -> dict[str, Any]:
        return {**row(name), "fold": fold, "content_digest": digest, "flags": list(flags)}

    rows = [
        clip("a", 1, "same"), clip("b", 2, "same"), clip("c", 2, "other"), clip("d", 2, "other"),
        clip("e", 1, "silence", "silent"), clip("f", 2, "silence", "silent"), clip("g", None, "x"), clip("h", 1, "x"),
    ]  # fmt: skip
    commit(tmp_path, Unit(0, 0, 8), rows, n_rejects=0, n_segments=8)
    totals = conservation.check(plan(tmp_path), [Unit(0, 0, 8)], ids(*"abcdefgh"))
    assert totals.duplicates == [["a", "b"], ["g", "h"]]
    assert totals.flags == {"silent": 2}


UNITS = [Unit(0, 0, 2), Unit(1, 2, 3)]


def test_units_are_summed_and_told_apart_by_what_became_of_their_rows(tmp_path: Path) -> None:
    write_rejects(tmp_path, UNITS[0], [reject("a", 0, 1), reject("b")])
    commit(tmp_path, UNITS[0], [row("a")], n_rejects=2, n_segments=1)
    commit(tmp_path, UNITS[1], [row("c", s, c) for s in (0, 1) for c in (0, 1)], n_rejects=0, n_segments=2)
    totals = conservation.check(plan(tmp_path, copies=2), UNITS, ids("a", "b", "c"))
    assert totals.clips == {"ok": 1, "partial": 1, "rejected": 1}
    assert (totals.audio_s, totals.bytes) == (3.0, 20)
    assert totals.reasons == {"DecodeError": 2}
    assert totals.rows["segments"] == {"written": 3}
    assert totals.rows["copies"] == {"written": 2, "rejected": 1}
    assert totals.duplicates == []


def test_rejects_of_an_attempt_that_was_not_committed_do_not_count(tmp_path: Path) -> None:
    write_rejects(tmp_path, UNITS[0], [reject("a"), reject("b")])
    commit(tmp_path, UNITS[0], [row("a"), row("b")], n_rejects=0, n_segments=2)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, n_segments=1)
    totals = conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))
    assert totals.clips == {"ok": 3}
    assert totals.rows["segments"] == {"written": 3}


def test_rejects_that_went_away_are_missed(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a")], n_rejects=1, n_segments=1)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, n_segments=1)
    with pytest.raises(ConservationError, match=r"unit-0000000\.parquet: clip b is neither"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))


def test_a_row_in_another_units_file_is_a_stranger(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a"), row("b"), row("c")], n_rejects=0, n_segments=3)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, n_segments=1)
    with pytest.raises(ConservationError, match="not in its part of the manifest: c"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))


def test_a_unit_without_a_file_is_missed(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a"), row("b")], n_rejects=0, n_segments=2)
    with pytest.raises(ConservationError, match=r"unit-0000001\.parquet"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))
