"""A recording → segments of one length at the front end's rate, each the same however the recording is divided."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import soxr
import xxhash

from audioclf.audio.recording import FULL_SCALE, Recording
from audioclf.errors import EmptyClipError

HALO = 256
"""Samples, at the lower of the two rates, resampled beyond either end of a segment: soxr's HQ filter reaches 128, so
a segment is what it would be if the whole recording were resampled at once."""

SILENT_PEAK = 1e-4
"""−80 dB of full scale; one step of 16-bit PCM is 3e-5."""

CLIPPED_RUN = 3
"""So many neighbouring frames at full scale make a segment `clipped`; fewer may be a true peak."""

ABSURD_PEAK = 1e12
"""Beyond it the power overflows float32."""


Count = TypeVar("Count", int, np.ndarray)
"""A number, or [N] int64 of them."""


@dataclass(frozen=True)
class Grid:
    """Where segments begin: every `hop` samples, `length` long, at the front end's rate.

    There is one segment at least. A last part shorter than `length` becomes a segment of its own, padded, if it
    reaches more than `min_tail` (a fraction of `length`) beyond the segment before it; otherwise it is left out.
    """

    sample_rate: int
    length: int
    hop: int
    min_tail: float

    def resampled(self, n_frames: Count, rate: Count) -> Count:
        """Samples that n_frames at `rate` Hz become."""
        return (2 * n_frames * self.sample_rate + rate) // (2 * rate)  # rounded; soxr may differ by one at a half

    def count(self, n_samples: Count) -> Count:
        """Segments of n_samples at the grid's rate."""
        beyond = n_samples - self.length - math.floor(self.min_tail * self.length)
        more = np.minimum(-(-beyond // self.hop), -(-(n_samples - self.hop) // self.hop))
        return 1 + np.maximum(0, more)  # pyright: ignore[reportReturnType]

    def count_frames(self, n_frames: Count, rate: Count) -> Count:
        """Segments of a recording of n_frames at `rate` Hz."""
        return self.count(self.resampled(n_frames, rate))


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Attributes:
        index: on the grid.
        start_s: where it begins, from the beginning of the recording or part.
        samples: [≤ grid.length] float32 at the grid's rate; fewer where the recording ends.
        source_s: seconds of the recording it adds to those of the segments before it.
        flags: any of `silent`, `clipped`, `truncated` (on the last segment of a file that ends before its header
            says).
        finite: whether they are all numbers; if not, `samples` is of no use.
        source: its mono samples before resampling.
    """

    index: int
    start_s: float
    samples: np.ndarray
    source_s: float
    flags: tuple[str, ...]
    finite: bool
    source: np.ndarray

    @property
    def content_digest(self) -> str:
        """Of `source`."""
        return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self.source).data)


def segment_samples(segment_s: float, sample_rate: int) -> int:
    """Samples in a segment; a clip whose duration is exactly segment_s fits whole."""
    return max(1, math.ceil(segment_s * sample_rate - 1e-6))


def segments(recording: Recording, grid: Grid, first: int = 0, stop: int | None = None) -> Iterator[Segment]:
    """The segments [first, stop) of a recording, in order; those after the first before the recording's end.

    Each is resampled by soxr HQ by itself, on a grid of samples that begins with the recording and with a halo on
    both sides, so that it does not depend on which others are asked for.

    Raises:
        EmptyClipError: too short for a single sample at the grid's rate.
        DecodeError: the file is damaged from some segment on.
    """
    rate, target = recording.sample_rate, grid.sample_rate
    halo = 0 if rate == target else HALO * max(1, math.ceil(rate / target))
    index = first
    while stop is None or index < stop:
        begin = index * grid.hop
        a, b = begin * rate // target, -(-(begin + grid.length) * rate // target)
        # So far that the end, if it is near, shows: whether a next segment follows decides who carries `truncated`.
        follows = max(begin + grid.length + math.floor(grid.min_tail * grid.length), begin + grid.hop) + 1
        from_frame = _aligned(max(0, a - halo), rate, target)
        ahead = recording.read(from_frame, max(b + halo, -(-(follows + 1) * rate // target)))
        total = recording.n_frames
        n_segments = None if total is None else int(grid.count_frames(total, rate))
        if total is not None and grid.resampled(total, rate) == 0:
            raise EmptyClipError(recording.name, "decode", f"{total} samples at {rate} Hz are too few")
        if n_segments is not None and index >= n_segments:
            return
        inside = slice(a - from_frame, b - from_frame)
        own, near = ahead[inside], ahead[: b + halo - from_frame]
        peak = _peak(own)
        finite = peak < ABSURD_PEAK  # false for NaN too
        flags = []
        if peak < SILENT_PEAK:
            flags.append("silent")
        if (peak >= FULL_SCALE or recording.channels > 1) and recording.longest_full_scale_run(a, b) >= CLIPPED_RUN:
            flags.append("clipped")
        if n_segments is not None and index == n_segments - 1 and recording.truncated:
            flags.append("truncated")
        yield Segment(
            index=index,
            start_s=begin / target,
            samples=_resample(_sound_beyond(near, inside), begin, from_frame, rate, grid) if finite else own,
            source_s=min(len(own), -(-grid.hop * rate // target)) / rate
            if n_segments != index + 1
            else len(own) / rate,
            flags=tuple(flags),
            finite=finite,
            source=own,
        )
        index += 1


def cut(samples: np.ndarray, length: int) -> np.ndarray:
    """The first `length` samples, zero-padded at the end if there are fewer."""
    if len(samples) >= length:
        return samples[:length]
    padded = np.zeros(length, samples.dtype)
    padded[: len(samples)] = samples
    return padded


def _peak(samples: np.ndarray) -> float:
    """The largest magnitude; NaN if a sample is."""
    return float(np.maximum(samples.max(initial=0), -samples.min(initial=0)))


def _sound_beyond(frames: np.ndarray, inside: slice) -> np.ndarray:
    """Frames that are numbers inside, with 0 for what is none beyond: a neighbour's NaN must not spoil a segment."""
    beyond = frames[: inside.start], frames[inside.stop :]
    if all(not len(some) or _peak(some) < ABSURD_PEAK for some in beyond):
        return frames
    return np.where(np.abs(frames) < ABSURD_PEAK, frames, np.float32(0))


def _aligned(frame: int, rate: int, target: int) -> int:
    """The last frame up to this one whose time is a whole number of samples at both rates."""
    step = rate // math.gcd(rate, target)
    return frame // step * step


def _resample(frames: np.ndarray, begin: int, from_frame: int, rate: int, grid: Grid) -> np.ndarray:
    """[≤ grid.length] samples from `begin` on, of frames that start at `from_frame`."""
    if rate != grid.sample_rate:
        frames = soxr.resample(frames, rate, grid.sample_rate, quality="HQ")
    offset = begin - from_frame * grid.sample_rate // rate
    return frames[offset : offset + grid.length]
