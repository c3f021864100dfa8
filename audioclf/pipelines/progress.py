"""What a person sees while a job runs: a line on a terminal, a log line now and then elsewhere."""

import contextlib
import itertools
import logging
import shlex
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from ray.util import metrics

from audioclf import storage
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

TERMINAL_EVERY_S, LOG_EVERY_S = 0.5, 10.0
MOST_REJECTS_LOGGED = 10

COUNTED = {
    "clips": "Clips in committed units.",
    "clips_rejected": "Clips of committed units that lost something.",
    "audio_s": "Seconds of audio in committed units.",
    "bytes": "Bytes of audio files read for committed units.",
}
"""What is counted of each unit; as metrics of Ray, audioclf_clips and so on."""


def log_outcome(directory: RunDirectory, summary: dict[str, Any]) -> None:
    """The end of a run's report: why clips were rejected, whether too many were, where everything lies."""
    for reason, count in sorted(summary["total"]["rejects_by_reason"].items()):
        log.info("  rejected: %6d %s", count, reason)
    if summary["status"] != "ok":
        allowed = summary["max_reject_fraction"]
        log.error("more than --max-reject-fraction %s were rejected: see %s/rejects", allowed, directory)
    log_written(directory)


def log_rejects(rows: Iterable[dict[str, Any]], total: int) -> None:
    """Name the first of the rejects, and say how many more there are.

    Args:
        rows: of the rejects; no more are taken than are told.
        total: of them.
    """
    for row in itertools.islice(rows, MOST_REJECTS_LOGGED):
        part = "" if row["segment_index"] is None else f", segment {row['segment_index']}"
        part += "" if row["copy_index"] is None else f", copy {row['copy_index']}"
        log.info("  rejected: %s%s: %s: %s", storage.display(row["uri"]), part, row["error"], row["message"])
    if total > MOST_REJECTS_LOGGED:
        log.info("  … and %s more", f"{total - MOST_REJECTS_LOGGED:,}")


def log_written(directory: RunDirectory) -> None:
    """Where a run lies, and how to see it."""
    log.info("wrote %s; to look at it: python jobs/report.py --run %s", directory, shlex.quote(str(directory)))


class Progress:
    """Counts what is in the units as they are committed."""

    def __init__(self, job: str, clips: int, began: float, noun: str = "clips"):
        self._job, self._planned, self._noun = job, clips, noun
        self._began = began
        self._first: tuple[float, Counter[str]] | None = None
        self._lock = threading.Lock()
        self._terminal = sys.stderr.isatty()
        self._done: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._augmented: Counter[str] = Counter()
        self._augment_s: defaultdict[str, float] = defaultdict(float)
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._metrics = {
            name: metrics.Counter(f"audioclf_{name}", description, tag_keys=("job",))
            for name, description in COUNTED.items()
        }
        self._stages = metrics.Counter("audioclf_stage_seconds", "Workers' time by stage.", tag_keys=("job", "stage"))
        self._rejects = metrics.Counter("audioclf_rejects", "Rows of rejects by reason.", tag_keys=("job", "reason"))

    def add(self, counts: dict[str, Any]) -> None:
        """Count a finished unit: its clips, clips_rejected, audio_s, bytes and reasons."""
        with self._lock:
            self._add(counts)

    def _add(self, counts: dict[str, Any]) -> None:
        self._done.update(units=1, **{name: counts[name] for name in COUNTED})
        self._reasons.update(counts["reasons"])
        self._augmented.update(counts.get("augmented", {}))
        for name, seconds in counts.get("augment_s", {}).items():
            self._augment_s[name] += seconds
            self._stages.inc(seconds, {"job": self._job, "stage": f"augment {name}"})
        for name, seconds in counts.get("seconds", {}).items():
            self._seconds[name] += seconds
            self._stages.inc(seconds, {"job": self._job, "stage": name})
        for name, metric in self._metrics.items():
            if counts[name]:
                metric.inc(counts[name], {"job": self._job})
        for reason, count in counts["reasons"].items():
            self._rejects.inc(count, {"job": self._job, "reason": reason})
        now = time.monotonic()
        if self._first is None:
            self._first = now, Counter(self._done)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show, while the with-block runs, what is counted, also while no unit ends; and at its end the last state."""
        stop = threading.Event()
        clock = threading.Thread(target=self._show_until, args=(stop,), name="progress", daemon=True)
        clock.start()
        try:
            yield
        finally:
            stop.set()
            clock.join()
            self._show()
            if self._terminal:
                sys.stderr.write("\n")

    def _show_until(self, stop: threading.Event) -> None:
        while not stop.wait(TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S):
            self._show()

    def _show(self) -> None:
        with self._lock:
            text = self._words(time.monotonic())
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        else:
            log.info("%s", text)

    def _words(self, now: float) -> str:
        done, rate = self._done, self._rates(now)
        left = f", {(self._planned - done['clips']) / rate['clips']:,.0f} s left" if rate["clips"] else ""
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in self._reasons.most_common(3))
        return (
            f"{self._job}: {done['clips']:,}/{self._planned:,} {self._noun}, {rate['clips']:,.0f}/s, "
            f"{rate['audio_s']:,.0f} audio-h/h, {rate['bytes'] / 1e6:,.0f} MB/s, "
            f"{done['clips_rejected']:,} rejected{f' ({rejects})' if rejects else ''}{left}"
        )

    def _rates(self, now: float) -> dict[str, float]:
        """What is counted, per second: the steady rates, from the first finished unit on, once known."""
        since, before = self._first or (self._began, Counter())
        if self._done["units"] <= 1 or now <= since:
            since, before = self._began, Counter()
        return {name: (self._done[name] - before[name]) / (now - since) for name in COUNTED}

    def summary(self) -> dict[str, Any]:
        """This run in figures; fixed_s is the time from the job's start to its first finished unit."""
        now = time.monotonic()
        rate = self._rates(now)
        return {
            "units": self._done["units"],
            "clips": self._done["clips"],
            "clips_rejected": self._done["clips_rejected"],
            "rejects_by_reason": dict(self._reasons),
            "audio_s": round(self._done["audio_s"], 3),
            "bytes": self._done["bytes"],
            "ms_per_copy": {
                name: round(1000 * self._augment_s[name] / count, 1) for name, count in self._augmented.items()
            },
            "seconds": {name: round(seconds, 1) for name, seconds in self._seconds.items()},
            "wall_s": round(now - self._began, 3),
            "fixed_s": round((self._first[0] if self._first else now) - self._began, 3),
            "clips_per_s": round(rate["clips"], 1),
            "audio_h_per_h": round(rate["audio_s"], 1),
            "mb_per_s": round(rate["bytes"] / 1e6, 1),
        }
