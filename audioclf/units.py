"""Manifest → units of work: bounded, deterministic slices, each one task and one output file."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from audioclf.audio.segment import Grid

# Used where a duration is unknown: bytes of 16-bit mono at 44.1 kHz, the archive's most common form.
ASSUMED_BYTES_PER_S = 88_200

MAX_UNIT_SEGMENTS = 500
"""Large enough that a task's overhead does not count (250 cost a twentieth of the rate), small enough to be redone
without regret."""

MIN_UNITS = 32
"""Small collections are cut finer than MAX_UNIT_SEGMENTS, so that work spreads and a resume saves something."""

MIN_UNIT_SEGMENTS = 8

MAX_UNIT_S = 3600.0

EXTENT_COLUMNS = ["size_bytes", "duration_s", "sample_rate", "channels", "start_s", "end_s"]
"""Of a manifest, what tells how long its clips are."""


@dataclass(frozen=True)
class Unit:
    """Rows [row_start, row_stop) of a manifest, or some segments of a single row: a long recording."""

    index: int
    row_start: int
    row_stop: int
    first_segment: int = 0
    stop_segment: int = 0
    """0: all there are."""
    segments_total: int = 0
    """Of the recording, where only some of its segments are the unit's."""

    @property
    def name(self) -> str:
        """The name of the unit's output file."""
        return f"unit-{self.index:07d}.parquet"


@dataclass(frozen=True)
class Attempt:
    """A unit to be done: carefully, if earlier attempts have killed the processes that made them."""

    unit: Unit
    careful: bool


def digest(units: list[Unit]) -> str:
    """Of what lies in which unit: files of one plan must not be taken for those of another."""
    return xxhash.xxh3_64_hexdigest(str([tuple(vars(unit).values()) for unit in units]).encode())


def default_unit_segments(n_segments: int, rows_per_segment: int = 1) -> int:
    """Segments in a unit: from the size of the collection alone, so that every run cuts alike."""
    segments = min(MAX_UNIT_SEGMENTS, max(MIN_UNIT_SEGMENTS, n_segments // MIN_UNITS))
    return max(1, segments // rows_per_segment)


def audio_seconds(duration_s: np.ndarray, size_bytes: np.ndarray) -> np.ndarray:
    """[N] seconds of audio for each clip, guessed from its size where the duration is NaN."""
    return np.where(np.isnan(duration_s), size_bytes / ASSUMED_BYTES_PER_S, duration_s)


def is_plain_pcm(
    size_bytes: np.ndarray, duration_s: np.ndarray, sample_rate: np.ndarray, channels: np.ndarray
) -> np.ndarray:
    """[N] whether a file is as large as uncompressed samples are: it can be read from anywhere, at no cost.

    A file of another kind that passes by chance is still read right, only with a longer way to its parts.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value_bytes = size_bytes / (duration_s * sample_rate * channels)
        whole = np.round(value_bytes)
        return np.isin(whole, (1, 2, 3, 4, 8)) & (np.abs(value_bytes - whole) < 1e-3 * whole)


def extent(table: pa.Table, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N] segments and seconds of each clip, guessed where the manifest does not say, and whether it can be split."""
    columns = {name: table[name].to_numpy() for name in EXTENT_COLUMNS}
    whole_s, rate = columns["duration_s"], columns["sample_rate"]
    known = ~(np.isnan(whole_s) | np.isnan(rate))
    splittable = known & is_plain_pcm(columns["size_bytes"], whole_s, rate, columns["channels"])
    guessed_s = audio_seconds(whole_s, columns["size_bytes"])
    rate = np.where(known, rate, grid.sample_rate).astype(np.int64)
    frames = np.rint(guessed_s * rate).astype(np.int64)
    # As the worker cuts a part of a file: at the nearest frames, within the file.
    first = np.minimum(np.rint(np.nan_to_num(columns["start_s"]) * rate).astype(np.int64), frames)
    last = np.minimum(
        np.rint(np.where(np.isnan(columns["end_s"]), 1e9, columns["end_s"]) * rate).astype(np.int64), frames
    )
    frames = np.where(np.isnan(columns["end_s"]), frames, last) - first
    return grid.count_frames(np.maximum(frames, 0), rate), np.maximum(frames, 0) / rate, splittable


def plan_units(
    n_segments: np.ndarray, seconds: np.ndarray, splittable: np.ndarray, max_segments: int, max_unit_s: float
) -> list[Unit]:
    """Cut N rows into units of at most max_segments segments and max_unit_s seconds.

    A longer row that is splittable becomes several units, one that is not a unit of its own.

    Args:
        n_segments: [N] of each row; exact where it is splittable.
        seconds: [N] of each row.
        splittable: [N].
        max_segments, max_unit_s: bounds.
    """
    segment_ends, second_ends = np.cumsum(n_segments), np.cumsum(seconds)
    long = np.flatnonzero(splittable & (n_segments > 1) & ((n_segments > max_segments) | (seconds > max_unit_s)))
    units: list[Unit] = []
    row = 0
    for stop_row in [*long.tolist(), len(n_segments)]:
        while row < stop_row:
            segments_before, seconds_before = (ends[row - 1] if row else 0 for ends in (segment_ends, second_ends))
            fits = min(
                int(np.searchsorted(segment_ends, segments_before + max_segments, side="right")),
                int(np.searchsorted(second_ends, seconds_before + max_unit_s, side="right")),
            )
            stop = min(max(fits, row + 1), stop_row)
            units.append(Unit(len(units), row, stop))
            row = stop
        if row < len(n_segments):
            units += _parts(len(units), row, int(n_segments[row]), float(seconds[row]), max_segments, max_unit_s)
            row += 1
    return units


def _parts(index: int, row: int, total: int, seconds: float, max_segments: int, max_unit_s: float) -> list[Unit]:
    """The units of one long recording."""
    step = max(1, min(max_segments, int(max_unit_s * total / seconds)))
    return [
        Unit(index + i, row, row + 1, first, min(first + step, total), total)
        for i, first in enumerate(range(0, total, step))
    ]
