"""What a person sees while a job runs: a line on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time
from typing import Any

from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0


def log_outcome(directory: RunDirectory, summary: dict[str, Any]) -> None:
    """The end of a run's report: why clips were rejected, whether too many were, where everything lies."""
    for reason, count in sorted(summary["total"]["rejects_by_reason"].items()):
        log.info("  rejected: %6d %s", count, reason)
    if summary["status"] != "ok":
        allowed = summary["max_reject_fraction"]
        log.error("more than --max-reject-fraction %s were rejected: see %s/rejects", allowed, directory)
    log.info("wrote %s", directory)


class Progress:
    """Counts clips as their units are committed."""

    def __init__(self, job: str, clips: int, began: float, noun: str = "clips"):
        self._job, self._planned, self._noun = job, clips, noun
        self._began = began
        self._first: tuple[float, int, float] | None = None
        self._last_shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self.clips = self.rejects = self.units = self.bytes = 0
        self.audio_s = 0.0

    def add(self, clips: int, rejects: int, audio_s: float, n_bytes: int) -> None:
        """Count a finished unit."""
        self.units += 1
        self.clips += clips
        self.rejects += rejects
        self.audio_s += audio_s
        self.bytes += n_bytes
        now = time.monotonic()
        if self._first is None:
            self._first = now, self.clips, self.audio_s
        if now - self._last_shown >= (TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S):
            self._last_shown = now
            self._show(now)

    def close(self) -> None:
        """Show the last state."""
        self._show(time.monotonic())
        if self._terminal:
            sys.stderr.write("\n")

    def _show(self, now: float) -> None:
        clips_per_s = self._rates(now)[0]
        left = (self._planned - self.clips) / clips_per_s if clips_per_s else 0
        text = (
            f"{self._job}: {self.clips:,}/{self._planned:,} {self._noun}, {clips_per_s:,.0f}/s, "
            f"{self._rates(now)[1]:,.0f} audio-h/h, {self.bytes / 1e6:,.0f} MB, {self.rejects:,} rejects, "
            f"{left:,.0f} s left"
        )
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        else:
            log.info("%s", text)

    def _rates(self, now: float) -> tuple[float, float]:
        """Clips per second and audio-hours per hour: steady ones, from the first finished unit on, once known."""
        since, clips, audio_s = self._first or (self._began, 0, 0.0)
        if self.units <= 1 or now <= since:
            since, clips, audio_s = self._began, 0, 0.0
        return (self.clips - clips) / (now - since), (self.audio_s - audio_s) / (now - since)

    def summary(self) -> dict[str, float | int]:
        """This run in figures; fixed_s is the time from the job's start to its first finished unit."""
        now = time.monotonic()
        clips_per_s, audio_h_per_h = self._rates(now)
        return {
            "units": self.units,
            "clips": self.clips,
            "audio_s": round(self.audio_s, 3),
            "bytes": self.bytes,
            "wall_s": round(now - self._began, 3),
            "fixed_s": round((self._first[0] if self._first else now) - self._began, 3),
            "clips_per_s": round(clips_per_s, 1),
            "audio_h_per_h": round(audio_h_per_h, 1),
        }
