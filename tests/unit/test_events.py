"""Windows → events, against a definition by intervals."""

import random
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf import events, schema

Window = tuple[str, str, float, float, float]
"""clip_id, tag, start_s, end_s, probability."""


def tag_rows(windows: list[Window], n_chunks: int = 1, **columns: Any) -> pa.Table:
    rows = [
        {"clip_id": clip, "uri": f"s3://b/{clip}.wav", "start_s": start, "end_s": end, "tag": tag, "probability": p,
         "rank": 1, **columns}
        for clip, tag, start, end, p in windows
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema.TAG)
    size = max(1, -(-len(rows) // n_chunks))
    return pa.concat_tables([table.slice(i, size) for i in range(0, max(1, len(rows)), size)])


def bounds(table: pa.Table) -> list[tuple[float, float, int]]:
    return list(zip(*(table[name].to_pylist() for name in ("start_s", "end_s", "windows")), strict=True))


def by_connected_windows(windows: list[Window], gap_s: float) -> list[tuple]:
    """Events as the connected components of the windows of one recording and tag that touch one another."""
    groups = defaultdict(list)
    for clip, tag, *window in windows:
        groups[clip, tag].append(window)
    found = []
    for (clip, tag), members in groups.items():
        parts: list[list] = []
        for window in members:  # in any order
            touched = [
                part for part in parts
                if any(a[0] <= window[1] + gap_s and window[0] <= a[1] + gap_s for a in part)
            ]  # fmt: skip
            parts = [part for part in parts if part not in touched] + [sum(touched, [window])]
        for part in parts:
            ps = [np.float32(p) for *_, p in part]
            mean = np.float32(sum(map(float, ps)) / len(ps))
            found.append((clip, min(a for a, *_ in part), max(b for _, b, _ in part), tag, max(ps), mean, len(ps)))
    clips = list(dict.fromkeys(clip for clip, *_ in windows))
    return sorted(found, key=lambda e: (clips.index(e[0]), e[1], -e[4], e[3]))


EVENT_COLUMNS = ["clip_id", "start_s", "end_s", "tag", "probability", "mean_probability", "windows"]

GRID_S = 0.25  # sums of it are exact: what touches is not a matter of rounding

windows_of = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r0", "r2"]), st.sampled_from(["é", "a", "B", "a b"]),
        st.integers(0, 40), st.integers(1, 12), st.floats(0, 1, width=32),
    ),
    max_size=40,
    unique_by=lambda w: w[:3],
)  # fmt: skip


@given(windows_of, st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 5), st.randoms())
def test_touching_windows_are_one_event(
    drawn: list[tuple], gap_s: float, n_chunks: int, shuffler: random.Random
) -> None:
    windows = [(clip, tag, a * GRID_S, (a + n) * GRID_S, p) for clip, tag, a, n, p in drawn]
    merged = events.merge(tag_rows(windows, n_chunks), gap_s)
    merged.validate(full=True)
    assert merged.schema.equals(schema.EVENT, check_metadata=True)
    rows = list(zip(*(merged[name].to_pylist() for name in EVENT_COLUMNS), strict=True))
    assert rows == by_connected_windows(windows, gap_s)
    assert merged["uri"].to_pylist() == [f"s3://b/{clip}.wav" for clip in merged["clip_id"].to_pylist()]

    clips = list(dict.fromkeys(clip for clip, *_ in windows))
    shuffler.shuffle(windows)
    windows.sort(key=lambda window: clips.index(window[0]))
    assert events.merge(tag_rows(windows), gap_s).equals(merged)


@pytest.mark.parametrize("hop_s", [0.1, 0.96, 1 / 3, 10.0])
def test_windows_whose_bounds_are_rounded_touch(hop_s: float) -> None:
    starts = [i * hop_s for i in range(5000)]
    summed = np.cumsum([hop_s] * 5000).tolist()  # drifts from i × hop
    windows = [("r", "a", a, b, 0.5) for a, b in zip(starts, summed, strict=True)]
    assert any(b < a for a, b in zip(starts[1:], summed, strict=False)) or hop_s == 10.0
    assert bounds(events.merge(tag_rows(windows))) == [(0.0, pytest.approx(5000 * hop_s), 5000)]


def test_a_gap_ends_an_event_unless_it_is_bridged() -> None:
    tags = tag_rows([("r", "a", 0, 1, 0.2), ("r", "a", 1.001, 2, 0.4), ("r", "a", 4, 5, 0.6)])
    assert bounds(events.merge(tags)) == [(0, 1, 1), (1.001, 2, 1), (4, 5, 1)]
    assert bounds(events.merge(tags, 1.0)) == [(0, 2, 2), (4, 5, 1)]
    assert bounds(events.merge(tags, 2.0)) == [(0, 5, 3)]


def test_a_long_window_outlasts_those_within_it() -> None:
    tags = tag_rows([("r", "a", 0, 10, 0.2), ("r", "a", 1, 2, 0.9), ("r", "a", 9, 9.5, 0.1), ("r", "a", 10, 11, 0.4)])
    merged = events.merge(tags)
    assert bounds(merged) == [(0, 11, 4)]
    assert merged["probability"][0].as_py() == np.float32(0.9)
    assert merged["mean_probability"][0].as_py() == np.float32(0.4)


def test_recordings_are_kept_apart_in_their_order() -> None:
    tags = tag_rows([("z", "a", 0, 1, 0.5), ("b", "a", 1, 2, 0.5), ("z", "a", 1, 2, 0.7), ("b", "a", 0, 1, 0.75)])
    merged = events.merge(tags)
    assert merged["clip_id"].to_pylist() == ["z", "b"]
    assert bounds(merged) == [(0, 2, 2), (0, 2, 2)]
    assert merged["probability"].to_pylist() == [np.float32(0.7), 0.75]


def test_what_is_not_known_stays_unknown() -> None:
    recorded_at = datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)
    known = tag_rows([("r", "a", 0, 1, 0.5), ("r", "b", 0, 1, 0.4)], mid="/m/1", recorded_at=recorded_at)
    merged = events.merge(pa.concat_tables([tag_rows([("q", "x", 3, 4, 0.5)]), known]))
    assert merged["mid"].to_pylist() == [None, "/m/1", "/m/1"]
    assert merged["recorded_at"].to_pylist() == [None, recorded_at, recorded_at]


@pytest.mark.parametrize(
    "table", [schema.TAG.empty_table(), pa.table({f.name: pa.chunked_array([], f.type) for f in schema.TAG})]
)
def test_nothing_gives_nothing(table: pa.Table) -> None:
    merged = events.merge(table)
    assert len(merged) == 0
    assert merged.schema.equals(schema.EVENT, check_metadata=True)


def test_many_events_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = tag_rows([(f"r{i}", "a", j, j + 0.5, 0.5) for i in range(3) for j in range(7)])
    whole = events.merge(tags)
    monkeypatch.setattr(events, "TAKE_ROWS", 4)
    assert events.merge(tags).equals(whole)
