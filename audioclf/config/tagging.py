"""Flags of jobs/tag.py."""

from dataclasses import dataclass

from audioclf.config.checks import require


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
    top_k: int = 3
    """Tags a window gets at most."""
    threshold: float = 0.0
    """Lowest probability of a tag that is written."""
    min_age_s: float = 0.0
    """Leave files younger than this many seconds for next time: their recorder may still be writing."""
    batch_size: int = 8
    """Windows in a forward pass."""
    num_actors: int = 0
    """Worker processes; 0: one for each CPU there is when the job starts."""
    unit_s: float = 600.0
    """Seconds of audio in a unit of work, or one longer recording."""
    max_reject_fraction: float = 0.05
    """Share of recordings that may be rejected; above it the job exits 3."""
    limit: int | None = None
    """Take only the first N recordings that are due."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        require(self.window_s is None or self.window_s > 0, "--window-s must be positive")
        require(self.hop_s is None or self.hop_s > 0, "--hop-s must be positive")
        require(self.top_k >= 1, "--top-k must be 1 or more")
        require(0 <= self.threshold <= 1, "--threshold must lie between 0 and 1")
        require(self.min_age_s >= 0, "--min-age-s must be 0 or more")
        require(self.batch_size >= 1, "--batch-size must be 1 or more")
        require(self.unit_s > 0, "--unit-s must be positive")
        require(self.num_actors >= 0, "--num-actors must be 0 or more")
        require(0 <= self.max_reject_fraction <= 1, "--max-reject-fraction must lie between 0 and 1")
        require(self.limit is None or self.limit > 0, "--limit must be positive")
