"""Every planned row is written or rejected, exactly once: properties, and whole run directories."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from audioclf import conservation, shards, storage
from audioclf.audio.frontend import get_front_end
from audioclf.conservation import Key
from audioclf.errors import ConservationError
from audioclf.extraction import ExtractPlan
from audioclf.units import Unit

SPEC = get_front_end("logmel44k")


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
            for copy in range(n_copies):
                (rejected if draw(st.booleans()) else written).append((clip_id, segment, copy))
    return clip_ids, draw(st.permutations(written)), draw(st.permutations(rejected)), n_copies


@given(units())
def test_any_unit_whose_rows_add_up_passes(unit: tuple[list[str], list[Key], list[Key], int]) -> None:
    clip_ids, written, rejected, n_copies = unit
    conservation.check_unit("u", clip_ids, written, rejected, n_copies)


@given(units(), st.data())
def test_any_row_there_twice_is_found(unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject) -> None:
    clip_ids, written, rejected, n_copies = unit
    again = data.draw(st.sampled_from(written + rejected))
    for more_written, more_rejected in (([again], []), ([], [again])):
        with pytest.raises(ConservationError, match="more than once"):
            conservation.check_unit("u", clip_ids, written + more_written, rejected + more_rejected, n_copies)


@given(units(), st.data())
def test_any_row_lost_is_found_unless_it_was_a_whole_last_segment(
    unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject
) -> None:
    clip_ids, written, rejected, n_copies = unit
    keys = written + rejected
    lost = data.draw(st.sampled_from(keys))
    of_clip = [key for key in keys if key[0] == lost[0]]
    is_last = lost[1] == max((key[1] or 0 for key in of_clip), default=0)
    assume(n_copies > 1 or len(of_clip) == 1 or not is_last)  # how many segments were planned is not known
    with pytest.raises(ConservationError, match=lost[0]):
        conservation.check_unit(
            "u", clip_ids, [k for k in written if k != lost], [k for k in rejected if k != lost], n_copies
        )


@given(units(), st.data())
def test_any_stranger_is_found(unit: tuple[list[str], list[Key], list[Key], int], data: st.DataObject) -> None:
    clip_ids, written, rejected, n_copies = unit
    stranger = data.draw(st.sampled_from(clip_ids))
    others = [clip_id for clip_id in clip_ids if clip_id != stranger]
    with pytest.raises(ConservationError, match=f"not in its part of the manifest: {stranger}"):
        conservation.check_unit("u", others, written, rejected, n_copies)


@given(units(), st.integers(3, 9), st.data())
def test_any_copy_too_many_is_found(
    unit: tuple[list[str], list[Key], list[Key], int], copy: int, data: st.DataObject
) -> None:
    clip_ids, written, rejected, n_copies = unit
    assume(written)
    clip_id, segment, _ = data.draw(st.sampled_from(written))
    with pytest.raises(ConservationError, match=f"{clip_id} lacks segments or copies"):
        conservation.check_unit("u", clip_ids, [*written, (clip_id, segment, copy)], rejected, n_copies)


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


def commit(folder: Path, unit: Unit, rows: list[dict[str, Any]], n_rejects: int, clips: int) -> None:
    counts = {"clips": clips, "rows": len(rows), "rejects": n_rejects, "reasons": {}, "flags": {}}
    if n_rejects:
        counts["reasons"] = {"DecodeError": n_rejects}
    data = shards.encode(rows, [np.zeros((128, 2), np.float32)] * len(rows), SPEC, 2, "digest", counts)
    storage.write_bytes(storage.to_uri(str(folder / "data" / unit.name)), data)


def write_rejects(folder: Path, unit: Unit, rejects: list[dict[str, Any]]) -> None:
    storage.write_bytes(storage.to_uri(str(folder / "rejects" / unit.name)), shards.encode_rejects(rejects))


def plan(folder: Path, copies: int = 1) -> ExtractPlan:
    sets = ("ts",) if copies > 1 else ()
    return ExtractPlan("", storage.to_uri(str(folder)), SPEC, 0.02, sets, copies - 1 or 1, 0, "digest")


def ids(*names: str) -> pa.ChunkedArray:
    return pa.chunked_array([list(names)], pa.string())


UNITS = [Unit(0, 0, 2), Unit(1, 2, 3)]


def test_units_are_summed_and_told_apart_by_what_became_of_their_rows(tmp_path: Path) -> None:
    write_rejects(tmp_path, UNITS[0], [reject("a", 0, 1), reject("b")])
    commit(tmp_path, UNITS[0], [row("a")], n_rejects=2, clips=2)
    commit(tmp_path, UNITS[1], [row("c", s, c) for s in (0, 1) for c in (0, 1)], n_rejects=0, clips=1)
    totals = conservation.check(plan(tmp_path, copies=2), UNITS, ids("a", "b", "c"))
    assert totals.counts == {"clips": 3, "rows": 5, "rejects": 2}
    assert totals.reasons == {"DecodeError": 2}
    assert totals.rows["segments"] == {"written": 3}
    assert totals.rows["copies"] == {"written": 2, "rejected": 1}
    assert totals.duplicates == []


def test_rejects_of_an_attempt_that_was_not_committed_do_not_count(tmp_path: Path) -> None:
    write_rejects(tmp_path, UNITS[0], [reject("a"), reject("b")])
    commit(tmp_path, UNITS[0], [row("a"), row("b")], n_rejects=0, clips=2)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, clips=1)
    totals = conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))
    assert totals.counts["rejects"] == 0
    assert totals.rows["segments"] == {"written": 3}


def test_rejects_that_went_away_are_missed(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a")], n_rejects=1, clips=2)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, clips=1)
    with pytest.raises(ConservationError, match=r"unit-0000000\.parquet: clip b is neither"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))


def test_a_row_in_another_units_file_is_a_stranger(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a"), row("b"), row("c")], n_rejects=0, clips=2)
    commit(tmp_path, UNITS[1], [row("c")], n_rejects=0, clips=1)
    with pytest.raises(ConservationError, match="not in its part of the manifest: c"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))


def test_a_unit_without_a_file_is_missed(tmp_path: Path) -> None:
    commit(tmp_path, UNITS[0], [row("a"), row("b")], n_rejects=0, clips=2)
    with pytest.raises(ConservationError, match=r"unit-0000001\.parquet"):
        conservation.check(plan(tmp_path), UNITS, ids("a", "b", "c"))
