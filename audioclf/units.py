"""Manifest → units of work: bounded, deterministic slices, each one task and one output file."""

from dataclasses import dataclass

import numpy as np

# Used where a duration is unknown: bytes of 16-bit mono at 44.1 kHz, the archive's most common form.
ASSUMED_BYTES_PER_S = 88_200

MAX_UNIT_CLIPS = 250
"""Large enough that a task's overhead does not count, small enough to be redone without regret."""

MIN_UNITS = 32
"""Small collections are cut finer than MAX_UNIT_CLIPS, so that work spreads and a resume saves something."""

MIN_UNIT_CLIPS = 8

MAX_UNIT_S = 3600.0


@dataclass(frozen=True)
class Unit:
    """Rows [row_start, row_stop) of a manifest."""

    index: int
    row_start: int
    row_stop: int

    @property
    def name(self) -> str:
        """The name of the unit's output file."""
        return f"unit-{self.index:07d}.parquet"


def default_unit_clips(n_clips: int, rows_per_clip: int = 1) -> int:
    """Clips in a unit: from the size of the collection alone, so that every run cuts alike."""
    clips = min(MAX_UNIT_CLIPS, max(MIN_UNIT_CLIPS, n_clips // MIN_UNITS))
    return max(1, clips // rows_per_clip)


def audio_seconds(duration_s: np.ndarray, size_bytes: np.ndarray) -> np.ndarray:
    """[N] seconds of audio for each clip, guessed from its size where the duration is NaN."""
    return np.where(np.isnan(duration_s), size_bytes / ASSUMED_BYTES_PER_S, duration_s)


def plan_units(seconds: np.ndarray, max_clips: int, max_unit_s: float) -> list[Unit]:
    """Cut N rows into units of at most max_clips clips and max_unit_s seconds, or of a single longer clip.

    Args:
        seconds: [N] of each clip.
        max_clips: bound on rows.
        max_unit_s: bound on seconds.
    """
    ends = np.cumsum(seconds)
    units: list[Unit] = []
    start = 0
    while start < len(seconds):
        before = ends[start - 1] if start else 0.0
        fits = int(np.searchsorted(ends, before + max_unit_s, side="right"))
        stop = min(max(fits, start + 1), start + max_clips, len(seconds))
        units.append(Unit(len(units), start, stop))
        start = stop
    return units
