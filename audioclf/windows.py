"""A unit of recordings → log-mel windows: the first half of tagging. Plain NumPy, no torch, no Ray."""

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from audioclf import fetch, isolation, manifest, storage, unit_segments
from audioclf.audio import segment
from audioclf.audio.frontend import FrontEnd
from audioclf.audio.log_mel import log_mel
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid
from audioclf.errors import ClipError, CrashedClipError
from audioclf.fetch import Fetcher, Opener
from audioclf.unit_segments import reject_row
from audioclf.units import Unit

AHEAD_BYTES = 64 << 20
"""Of recordings fetched before their turn."""

T = TypeVar("T")


@dataclass(frozen=True)
class Windows:
    """How recordings are cut: small, since it travels to each worker.

    Attributes:
        manifest_uri: the recordings that units name rows of.
        front_end: of the network.
        window_s, hop_s: seconds in a window, and from one to the next.
        readable_uri: of a recording that can be read, by which the trouble of another is judged.
    """

    manifest_uri: str
    front_end: FrontEnd
    window_s: float
    hop_s: float
    readable_uri: str | None = None

    @property
    def grid(self) -> Grid:
        """Where windows begin; the last part of a recording is a window too, however short."""
        rate = self.front_end.sample_rate
        length, hop = (segment.segment_samples(seconds, rate) for seconds in (self.window_s, self.hop_s))
        return Grid(rate, length, hop, min_tail=0.0)

    @property
    def picture_bytes(self) -> int:
        """Of one window."""
        return 4 * self.front_end.n_features * self.front_end.n_frames(self.grid.length)


@dataclass(frozen=True)
class Window:
    """A window of a recording.

    Attributes:
        recording: row of the manifest.
        start_s, end_s: where it lies in the file; it ends where the recording does, its picture may go on.
        log_mel: [M, T] float32.
        valid_frames: those beyond them are padding.
    """

    recording: dict[str, Any]
    start_s: float
    end_s: float
    log_mel: np.ndarray
    valid_frames: int


@dataclass(frozen=True)
class Part:
    """What became of a recording, or of the part of it that lies in the unit; comes after its windows.

    Attributes:
        recording: row of the manifest.
        windows: so many came before.
        duration_s: seconds heard.
        flags: `clipped` and `truncated` of any window, `silent` of all.
        bytes: of the file, what was read.
        rejects: rows for what could not be heard.
        seconds: that fetching and decoding, and the front end, took.
    """

    recording: dict[str, Any]
    windows: int
    duration_s: float
    flags: list[str]
    bytes: int
    rejects: list[dict[str, Any]]
    seconds: dict[str, float]


class WindowCutter:
    """Cuts the recordings of one unit after another into windows."""

    def __init__(self, windows: Windows):
        self._windows = windows
        self._manifest = manifest.SliceReader(windows.manifest_uri)
        self._fetcher = Fetcher(AHEAD_BYTES)

    def __call__(self, unit: Unit, careful: bool = False) -> Iterator[Window | Part]:
        """The windows of each recording in turn, then what became of it.

        Args:
            unit: what to do.
            careful: decode each recording in a process of its own first, since one may kill the process.
        """
        with contextlib.ExitStack() as stack:
            trials = stack.enter_context(isolation.Trials(_decode)) if careful else None
            rows = self._manifest.rows(unit.row_start, unit.row_stop)
            for recording, opener in self._fetcher(rows, in_part=unit.segments_total > 0):
                yield from self._cut(recording, opener, unit, trials)

    def close(self) -> None:
        """Close the manifest and end the fetching threads."""
        self._manifest.close()
        self._fetcher.close()

    def _cut(
        self, recording: dict[str, Any], opener: Opener, unit: Unit, trials: isolation.Trials | None
    ) -> Iterator[Window | Part]:
        grid, front_end = self._windows.grid, self._windows.front_end
        rejects: list[dict[str, Any]] = []
        seconds: defaultdict[str, float] = defaultdict(float)
        flags: Counter[str] = Counter()
        n_windows, duration_s = 0, 0.0
        offset_s = recording["start_s"] or 0.0
        try:
            with (
                fetch.own_trouble(recording["uri"], self._windows.readable_uri),
                _open(recording, opener, unit, grid, trials, seconds) as sound,
            ):
                for part in _timed(unit_segments.of(sound, unit, grid, recording, rejects), seconds):
                    if part is None:
                        continue
                    began = time.perf_counter()
                    picture = log_mel(segment.cut(part.samples, grid.length), front_end)
                    seconds["front_end"] += time.perf_counter() - began
                    # Not window_s: of a length that is no whole number of samples, neighbours would not touch.
                    stop_s = part.start_s + grid.length / grid.sample_rate
                    if sound.n_frames:
                        stop_s = min(stop_s, sound.n_frames / sound.sample_rate)
                    valid = front_end.n_frames(min(len(part.samples), grid.length))
                    yield Window(recording, offset_s + part.start_s, offset_s + stop_s, picture, valid)
                    n_windows += 1
                    duration_s += part.source_s
                    flags.update(part.flags)
        except ClipError as error:  # the one place where an error becomes a reject
            rejects.append(reject_row(recording, error))
        n_bytes = unit_segments.bytes_of(recording, unit, n_windows)
        of_all = sorted(flag for flag, count in flags.items() if flag != "silent" or count == n_windows)
        yield Part(recording, n_windows, duration_s, of_all, n_bytes, rejects, dict(seconds))


def _open(
    recording: dict[str, Any],
    opener: Opener,
    unit: Unit,
    grid: Grid,
    trials: isolation.Trials | None,
    seconds: defaultdict[str, float],
) -> Recording:
    if trials and not trials.survives(recording, unit, grid):
        raise CrashedClipError(storage.display(recording["uri"]), "decode", isolation.MESSAGE)
    began = time.perf_counter()
    sound = Recording(opener(), storage.display(recording["uri"]), recording["start_s"], recording["end_s"])
    seconds["decode"] += time.perf_counter() - began
    return sound


def _timed(items: Iterable[T], seconds: defaultdict[str, float]) -> Iterator[T]:
    """The items; the time that each takes to come is counted as decoding."""
    waiting = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(waiting)
        except StopIteration:
            return
        finally:
            seconds["decode"] += time.perf_counter() - began
        yield item


def _decode(recording: dict[str, Any], unit: Unit, grid: Grid) -> None:
    """Decode a recording and keep nothing: to see whether it kills its process."""
    fetcher = Fetcher(AHEAD_BYTES)
    try:
        for found, opener in fetcher([recording]):
            with Recording(opener(), storage.display(found["uri"]), found["start_s"], found["end_s"]) as sound:
                for _ in unit_segments.of(sound, unit, grid, found, []):
                    pass
    except ClipError:
        pass  # its turn comes when the unit is made
    finally:
        fetcher.close()
