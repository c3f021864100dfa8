"""The flags of jobs/tag.py and a checkpoint → what exactly is done with each window."""

from dataclasses import dataclass
from typing import Any

from audioclf import storage, thresholds
from audioclf.checkpoint import Checkpoint
from audioclf.config import TagConfig
from audioclf.recording_times import RecordingTime

DEFAULT_TOP_K = 3
"""Where no threshold decides."""

UNLEARNED_THRESHOLD = 0.5
"""Of a class that has none, while others have."""


@dataclass(frozen=True)
class TagSettings:
    """What the rows of a tag output depend on, but for the network.

    Attributes:
        window_s, hop_s: seconds in a window, and from one to the next.
        top_k: tags a window gets at most.
        thresholds: of each class, the lowest probability of a tag that is written.
        source: where these come from, for people.
        times: when a recording was made, by its name.
    """

    window_s: float
    hop_s: float
    top_k: int
    thresholds: tuple[float, ...]
    source: str
    times: RecordingTime | None

    @classmethod
    def of(cls, config: TagConfig, loaded: Checkpoint) -> "TagSettings":
        """Raises ConfigError: a file of thresholds that is none, or of other classes; no such pattern or time zone."""
        window_s = config.window_s or loaded.segment_s
        values, source = _thresholds(config, loaded)
        top_k = config.top_k or (DEFAULT_TOP_K if source == "none" else len(loaded.vocabulary))
        times = RecordingTime(config.time_regex, config.time_zone) if config.time_regex else None
        return cls(window_s, config.hop_s or window_s, top_k, values, source, times)

    def describe(self) -> str:
        """For the log."""
        lowest, highest = min(self.thresholds), max(self.thresholds)
        span = f"{lowest:g}" if lowest == highest else f"{lowest:.2f} to {highest:.2f}"
        cut = "" if self.source == "none" else f", at {span} or more ({self.source})"
        limit = f"the {self.top_k} likeliest tags" if self.top_k < len(self.thresholds) else "all tags"
        return f"windows of {self.window_s:.2f} s every {self.hop_s:.2f} s, {limit}{cut}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "window_s": self.window_s,
            "hop_s": self.hop_s,
            "top_k": self.top_k,
            "thresholds": list(self.thresholds) if len(set(self.thresholds)) > 1 else self.thresholds[0],
            "time_regex": self.times.pattern if self.times else None,
            "time_zone": self.times.zone if self.times else None,
        }


def _thresholds(config: TagConfig, loaded: Checkpoint) -> tuple[tuple[float, ...], str]:
    """The threshold of each class, and where it comes from."""
    names = loaded.vocabulary.names
    if config.thresholds is not None:
        given = thresholds.read(storage.to_uri(config.thresholds), names, loaded.vocabulary.mids)
        return tuple(given[name] for name in names), "--thresholds"
    if config.threshold is not None:
        return (config.threshold,) * len(names), "--threshold"
    if loaded.thresholds is not None:
        learned = (UNLEARNED_THRESHOLD if value is None else value for value in loaded.thresholds)
        return tuple(learned), "learned, in the checkpoint"
    return (0.0,) * len(names), "none"
