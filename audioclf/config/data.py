"""Flags of the jobs that make data: manifest, extract, hear, demo."""

import math
from dataclasses import dataclass
from typing import Literal

from audioclf.config.checks import MIN_MEMORY_MB, SHORTEST_S, require

Layout = Literal["folders", "flat", "csv", "esc50", "urbansound8k", "audioset"]


@dataclass(frozen=True)
class ManifestConfig:
    """Flags of jobs/manifest.py."""

    input: str
    """Folder or s3://bucket/prefix with the audio files."""
    output: str
    """Manifest file to write (Parquet)."""
    layout: Layout = "folders"
    """How the collection says what is what: folders = parent/CLASS/*.wav; flat = no labels; csv = your own table;
    esc50, urbansound8k, audioset = the datasets of that name."""
    metadata: str | None = None
    """CSV of the layouts csv, esc50, urbansound8k and audioset (a list of segments, with class_labels_indices.csv and
    perhaps ontology.json beside it)."""
    label_regex: str | None = None
    """Pattern on the path below --input; its first group is the label."""
    fold_regex: str | None = None
    """Pattern on the path below --input; its first group is the fold."""
    source_regex: str | None = None
    """Pattern on the path below --input; its first group names the recording a clip was cut from."""
    time_regex: str | None = None
    """Pattern on the path below --input; its first group is the time of recording, as 20240131_235959 or ISO 8601. Or
    the name of a ready one: audiomoth, audiomoth-hex, songmeter, swift, birdnet-pi, iso."""
    time_zone: str = "UTC"
    """Time zone of what --time-regex finds, where that has no offset of its own: a name of the IANA database, as
    Europe/Berlin, or an offset, as +02:00. Where clocks are put back, the first of two times; where they are put
    forward, one that does not exist counts by the offset before."""
    folds: int | None = None
    """Deal the sources into so many stratified folds."""
    probe: bool = False
    """Read every file's header for its duration, rate and channels."""
    probe_above_mb: float = 64.0
    """Files larger than this (MB) are probed in any case."""
    limit: int | None = None
    """Take only the first N files."""
    dry_run: bool = False
    """Print what would be done; write nothing."""

    def __post_init__(self) -> None:
        needs_metadata = self.layout in ("csv", "esc50", "urbansound8k", "audioset")
        require(bool(self.metadata) or not needs_metadata, f"--layout {self.layout} needs --metadata FILE.csv")
        require(not self.metadata or needs_metadata, f"--layout {self.layout} reads no --metadata")
        require(self.time_zone == "UTC" or bool(self.time_regex), "--time-zone is that of --time-regex; give both")
        require(self.folds is None or self.folds >= 2, "--folds must be 2 or more")
        require(self.folds is None or not self.fold_regex, "--folds and --fold-regex both set the fold; give one")
        require(self.limit is None or self.limit > 0, "--limit must be positive")


@dataclass(frozen=True)
class ExtractConfig:
    """Flags of jobs/extract.py."""

    manifest: str
    """Manifest file of jobs/manifest.py."""
    output: str
    """Run directory to write: data/, rejects/, summary.json. The same command again goes on where it stopped."""
    frontend: str = "logmel44k"
    """Front end: logmel44k, logmel32k, mfcc44k, panns32k, panns16k, efficientat32k or yamnet16k; or a FILE.yaml of your
    own, with `base: NAME` and the fields that differ. Or pcm32k, pcm44k: the samples, to train on waveforms."""
    segment_s: float | None = None
    """Seconds in a segment; default: as long as the longest clip, at most --max-segment-s, one segment a clip."""
    max_segment_s: float = 30.0
    """Bound, in seconds, on a segment's length where --segment-s is not given."""
    augment: tuple[str, ...] = ()
    """Transform sets of which to write augmented copies; default none. ts: time stretch; ps1, ps2: pitch shift by up
    to 2 and to 3.5 semitones; stretch-pitch: both at once, drawn evenly; drc: dynamic range compression; bg: background
    recordings; gain, noise, shift: level, white noise, place in time."""
    policy: str | None = None
    """Policy file (YAML) in place of --augment: for each class, the sets that its clips get copies of."""
    copies: int = 1
    """Augmented copies of each segment and transform set."""
    backgrounds: str | None = None
    """Folder or s3://bucket/prefix of background recordings, for the set bg."""
    engine: Literal["r2", "r3"] = "r2"
    """Rubber Band's engine: r2, or r3, which sounds better and takes three to five times as long."""
    seed: int = 0
    """Seed of the augmentation's random numbers."""
    max_reject_fraction: float = 0.05
    """Share of clips that may be rejected, wholly or partly; above it the job exits 3."""
    num_actors: int = 0
    """Worker processes; 0: one for each CPU there is when the job starts."""
    unit_segments: int = 0
    """Segments in a unit of work; 0: from the collection's size, 8 to 500."""
    memory_mb: int = 1000
    """Memory of a worker process (MB); on a small machine lower it, to 500 at least."""
    limit: int | None = None
    """Take only the first N clips."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        require(
            self.segment_s is None or SHORTEST_S <= self.segment_s < math.inf,
            f"--segment-s must be {SHORTEST_S} seconds or more",
        )
        require(self.max_segment_s > 0, "--max-segment-s must be positive")
        require(self.copies >= 1, "--copies must be 1 or more; leave --augment out for none")
        unused = [
            flag
            for flag, given in (
                ("--copies", self.copies > 1), ("--backgrounds", self.backgrounds), ("--engine", self.engine != "r2")
            )
            if given
        ]  # fmt: skip
        require(bool(self.augment or self.policy) or not unused, f"{' and '.join(unused)} needs --augment or --policy")
        require(not (self.augment and self.policy), "--policy says which sets are wanted; leave --augment out")
        require(len(set(self.augment)) == len(self.augment), "--augment names a transform set twice")
        require(0 <= self.max_reject_fraction <= 1, "--max-reject-fraction must lie between 0 and 1")
        require(self.num_actors >= 0, "--num-actors must be 0 or more")
        require(self.unit_segments >= 0, "--unit-segments must be 0 or more")
        require(self.memory_mb >= MIN_MEMORY_MB, f"--memory-mb must be {MIN_MEMORY_MB} or more")
        require(self.limit is None or self.limit > 0, "--limit must be positive")


@dataclass(frozen=True)
class HearConfig:
    """Flags of jobs/hear.py."""

    shards: str
    """Run directory of jobs/extract.py."""
    clip_id: str
    """The clip's clip_id, in the shards as in the manifest."""
    output: str
    """WAV file to write: 32-bit float, at the front end's rate."""
    segment: int = 0
    """Which of the clip's segments, its segment_index."""
    copy: int = 0
    """Which of the segment's copies, its copy_index; 0: the original."""


@dataclass(frozen=True)
class DemoConfig:
    """Flags of jobs/demo.py."""

    audio: str | None = None
    """Folder of class folders with your own clips; default: a synthetic corpus."""
    output: str = "demo"
    """Folder to write; an earlier demo in it is replaced."""
    folds: int = 3
    """Folds to deal the clips into."""
    epochs: int = 20
    """Passes over the training clips."""

    def __post_init__(self) -> None:
        require(self.folds >= 2, "--folds must be 2 or more")
        require(self.epochs >= 1, "--epochs must be 1 or more")
