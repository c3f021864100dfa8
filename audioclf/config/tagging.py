"""Flags of jobs/tag.py."""

import math
from dataclasses import dataclass
from typing import Literal

from audioclf.config.checks import MIN_MEMORY_MB, SHORTEST_S, require

MOST_KEEP_DAYS = 36_500


@dataclass(frozen=True)
class TagConfig:
    """Flags of jobs/tag.py."""

    input: str
    """Folder, s3://bucket/prefix or manifest file with the recordings."""
    checkpoint: str
    """Checkpoint directory, the run directory of jobs/train.py, or a published network: NAME (mn04), NAME:FILE."""
    output: str
    """Directory to write: ledger/, runs/TIME/. The same command again tags what is new or changed."""
    window_s: float | None = None
    """Seconds in a window; default: the segments the network was trained on."""
    hop_s: float | None = None
    """Seconds from one window to the next; default: a window."""
    top_k: int | None = None
    """Tags a window gets at most; default: 3, or with thresholds all that reach theirs."""
    threshold: float | None = None
    """Lowest probability of a tag that is written; default: where the checkpoint has learned thresholds, each class's
    own, and 0.5 for a class that has none; otherwise 0."""
    thresholds: str | None = None
    """YAML file of lowest probabilities, {CLASS: value, "*": value of the others}, instead of --threshold."""
    embeddings: bool = False
    """Write an embedding of each window too (float16)."""
    event_gap_s: float = 0.0
    """Windows of one tag that lie no further apart make one event (seconds)."""
    export: tuple[Literal["csv", "jsonl", "audacity"], ...] = ()
    """Write each run's tags and events as CSV or JSON Lines, its events as label files for Audacity."""
    time_regex: str | None = None
    """When a recording was made: a pattern on its path below --input whose first group is the time, or one by name:
    audiomoth, audiomoth-hex, songmeter, swift, birdnet-pi, iso."""
    time_zone: str = "UTC"
    """Of these times: Europe/Berlin, +02:00."""
    min_age_s: float = 0.0
    """Leave files younger than this many seconds for next time: their recorder may still be writing."""
    retry_rejected: bool = False
    """Take what was rejected before, too, even if it has not changed; what could not be read for a reason that may
    pass (no permission, archived, changed meanwhile) is taken again in any case."""
    keep_days: float | None = None
    """Remove directories of runs older than this many days, their tags included; what they dealt with stays known. A
    run that ended without saying so stays until the night after that in which it is told of."""
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    """What computes the network; auto: PyTorch on GPUs, ONNX Runtime on CPUs, two to three times as fast there."""
    batch_size: int | None = None
    """Windows, or patches of them, in a forward pass; default: 1 on CPUs, by measurement the fastest; 64 on GPUs."""
    num_actors: int = 0
    """Worker processes; 0: one for each CPU there is when the job starts."""
    memory_mb: int = 1000
    """Memory kept for a worker process (MB): no more of them start than fit. A small network does with 500."""
    use_gpu: bool = False
    """Compute networks on GPUs; CPU workers make the windows."""
    gpus_per_actor: float = 1.0
    """Of a GPU, what one process that computes the network takes: 0.25 puts four on each."""
    inference_actors: int = 0
    """Processes that compute the network, apart from those that make windows; 0: with --use-gpu as many as fit,
    otherwise each worker does both."""
    unit_s: float = 600.0
    """Seconds of audio in a unit of work, or one longer recording that can't be read in parts."""
    max_reject_fraction: float = 0.05
    """Share of a run's recordings that may be rejected, wholly or partly; above it the job exits 3."""
    limit: int | None = None
    """Take only N of the recordings that are due: the first, new and changed ones before those tried again."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        for flag, seconds in (("--window-s", self.window_s), ("--hop-s", self.hop_s)):
            require(seconds is None or SHORTEST_S <= seconds < math.inf, f"{flag} must be {SHORTEST_S} seconds or more")
        require(self.top_k is None or self.top_k >= 1, "--top-k must be 1 or more")
        require(self.threshold is None or 0 <= self.threshold <= 1, "--threshold must lie between 0 and 1")
        require(self.threshold is None or self.thresholds is None, "--threshold and --thresholds: give one of them")
        require(self.event_gap_s >= 0, "--event-gap-s must be 0 or more")
        require(self.time_regex is not None or self.time_zone == "UTC", "--time-zone needs --time-regex")
        require(self.min_age_s >= 0, "--min-age-s must be 0 or more")
        require(
            self.keep_days is None or 0 < self.keep_days <= MOST_KEEP_DAYS,
            f"--keep-days must be above 0 and {MOST_KEEP_DAYS:,} at most; without it no run is removed",
        )
        require(self.memory_mb >= MIN_MEMORY_MB, f"--memory-mb must be {MIN_MEMORY_MB} or more")
        require(not (self.use_gpu and self.runtime == "onnx"), "--runtime onnx computes on CPUs; drop --use-gpu")
        require(self.batch_size is None or self.batch_size >= 1, "--batch-size must be 1 or more")
        require(
            0 < self.gpus_per_actor <= 1,
            "--gpus-per-actor must be above 0 and at most 1: a process computes on one GPU",
        )
        require(self.inference_actors >= 0, "--inference-actors must be 0 or more")
        require(self.unit_s > 0, "--unit-s must be positive")
        require(self.num_actors >= 0, "--num-actors must be 0 or more")
        require(0 <= self.max_reject_fraction <= 1, "--max-reject-fraction must lie between 0 and 1")
        require(self.limit is None or self.limit > 0, "--limit must be positive")
