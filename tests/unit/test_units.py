"""Units of work: bounded, deterministic, long recordings in parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf import units
from audioclf.units import Unit


@given(
    rows=st.lists(st.tuples(st.integers(1, 80), st.floats(0.1, 100), st.booleans()), max_size=150),
    max_segments=st.integers(1, 50),
    max_unit_s=st.floats(1, 500),
)
def test_units_cut_all_rows_and_segments_within_both_bounds(
    rows: list[tuple[int, float, bool]], max_segments: int, max_unit_s: float
) -> None:
    n_segments = np.array([row[0] for row in rows], np.int64)
    seconds = np.array([row[1] for row in rows])
    splittable = np.array([row[2] for row in rows], bool)
    plan = units.plan_units(n_segments, seconds, splittable, max_segments, max_unit_s)
    assert [unit.index for unit in plan] == list(range(len(plan)))
    segments_of: dict[int, list[int]] = {row: [] for row in range(len(rows))}
    for unit in plan:
        if unit.segments_total:
            row = unit.row_start
            assert unit.row_stop == row + 1
            assert splittable[row]
            assert unit.segments_total == n_segments[row]
            segments_of[row] += range(unit.first_segment, unit.stop_segment)
            count = unit.stop_segment - unit.first_segment
            assert count <= max_segments
            assert count == 1 or count * seconds[row] / n_segments[row] <= max_unit_s * (1 + 1e-9)
        else:
            inside = slice(unit.row_start, unit.row_stop)
            for row in range(unit.row_start, unit.row_stop):
                segments_of[row] += range(n_segments[row])
            if unit.row_stop - unit.row_start > 1:
                assert n_segments[inside].sum() <= max_segments
                assert seconds[inside].sum() <= max_unit_s * (1 + 1e-9)
    assert segments_of == {row: list(range(n_segments[row])) for row in range(len(rows))}


def test_a_long_recording_is_spread_and_a_compressed_one_is_not() -> None:
    plan = units.plan_units(
        np.array([2, 10, 1, 10]), np.array([2.0, 10.0, 1.0, 10.0]), np.array([True, True, True, False]), 4, 100.0
    )
    assert plan == [
        Unit(0, 0, 1), Unit(1, 1, 2, 0, 4, 10), Unit(2, 1, 2, 4, 8, 10), Unit(3, 1, 2, 8, 10, 10),
        Unit(4, 2, 3), Unit(5, 3, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(("n_clips", "expected"), [(1, 8), (400, 12), (2_000, 62), (8_000, 250), (2_000_000, 500)])
def test_small_collections_are_cut_finer(n_clips: int, expected: int) -> None:
    assert units.default_unit_segments(n_clips) == expected


def test_unknown_durations_are_guessed_from_sizes() -> None:
    seconds = units.audio_seconds(np.array([2.0, np.nan]), np.array([1, 882_000]))
    assert seconds.tolist() == [2.0, 10.0]


def test_a_plan_is_known_by_its_units() -> None:
    one, other = [Unit(0, 0, 4), Unit(1, 4, 8)], [Unit(0, 0, 5), Unit(1, 5, 8)]
    assert units.digest(one) == units.digest(list(one)) != units.digest(other)


def test_uncompressed_files_are_told_by_their_size() -> None:
    hour = 3600 * 48_000
    sizes = np.array([2 * 2 * hour + 44, 3 * 2 * hour + 102, 4 * 2 * hour + 80, 1.37 * 2 * hour, hour / 10, 44])
    durations = np.array([3600.0, 3600.0, 3600.0, 3600.0, 3600.0, np.nan])
    plain = units.is_plain_pcm(sizes, durations, np.full(6, 48_000.0), np.full(6, 2.0))
    assert plain.tolist() == [True, True, True, False, False, False]
