"""One frozen dataclass a job: its flags, their defaults and what they must satisfy."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from audioclf.errors import ConfigError

MIN_MEMORY_MB = 500
"""A worker's libraries take more than half of it."""

Layout = Literal["folders", "flat", "csv", "esc50", "urbansound8k", "audioset"]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


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
    """Pattern on the path below --input; its first group is the UTC time of recording, as 20240131_235959."""
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
        _require(bool(self.metadata) or not needs_metadata, f"--layout {self.layout} needs --metadata FILE.csv")
        _require(not self.metadata or needs_metadata, f"--layout {self.layout} reads no --metadata")
        _require(self.folds is None or self.folds >= 2, "--folds must be 2 or more")
        _require(self.folds is None or not self.fold_regex, "--folds and --fold-regex both set the fold; give one")
        _require(self.limit is None or self.limit > 0, "--limit must be positive")


@dataclass(frozen=True)
class ExtractConfig:
    """Flags of jobs/extract.py."""

    manifest: str
    """Manifest file of jobs/manifest.py."""
    output: str
    """Run directory to write: data/, rejects/, summary.json. The same command again goes on where it stopped."""
    frontend: str = "logmel44k"
    """Front end: logmel44k, mfcc44k, panns32k, panns16k, efficientat32k or yamnet16k; or a FILE.yaml of your own, with
    `base: NAME` and the fields that differ."""
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
    """Share of clips that may be rejected; above it the job exits 3."""
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
        _require(self.segment_s is None or 0 < self.segment_s < math.inf, "--segment-s must be positive")
        _require(self.max_segment_s > 0, "--max-segment-s must be positive")
        _require(self.copies >= 1, "--copies must be 1 or more; leave --augment out for none")
        _require(not (self.augment and self.policy), "--policy says which sets are wanted; leave --augment out")
        _require(len(set(self.augment)) == len(self.augment), "--augment names a transform set twice")
        _require(0 <= self.max_reject_fraction <= 1, "--max-reject-fraction must lie between 0 and 1")
        _require(self.num_actors >= 0, "--num-actors must be 0 or more")
        _require(self.unit_segments >= 0, "--unit-segments must be 0 or more")
        _require(self.memory_mb >= MIN_MEMORY_MB, f"--memory-mb must be {MIN_MEMORY_MB} or more")
        _require(self.limit is None or self.limit > 0, "--limit must be positive")


@dataclass(frozen=True)
class Training:
    """How a network is trained; the part that train and crossval share."""

    model: str = "sbcnn"
    """Network: sbcnn."""
    init: str | None = None
    """Checkpoint directory to start from; its network and front end must be the same."""
    epochs: int = 120
    """Passes over the training clips."""
    batch_size: int = 32
    """Clips in a step, over all workers."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, or stochastic gradient descent (momentum 0.9)."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate: constant, or down to 0 along half a cosine."""
    l2: float = 1e-3
    """L2 penalty on the dense layers' weights, added to the loss."""
    dropout: float = 0.5
    """Share of inputs of the dense layers left out in training."""
    amp: bool = False
    """Mixed precision: bfloat16 where it is safe; faster on hardware that has it."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "--epochs must be 1 or more")
        _require(self.batch_size >= 1, "--batch-size must be 1 or more")
        _require(self.learning_rate > 0, "--learning-rate must be positive")
        _require(self.l2 >= 0, "--l2 must be 0 or more")
        _require(0 <= self.dropout < 1, "--dropout must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Training):
    """Flags of jobs/train.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py, one or several."""
    output: str
    """Run directory to write: checkpoint/, metrics.json."""
    policy: str | None = None
    """Policy file (YAML): which copies training takes, and how often; default: originals and all copies alike."""
    test_fold: int | None = None
    """Fold to keep out of training."""
    seed: int = 0
    """Seed of the weights, the order of clips, the patches and the dropout."""
    num_workers: int = 1
    """Training workers; 0 trains in the job's own process."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.num_workers >= 0, "--num-workers must be 0 or more")
        _require(self.seed >= 0, "--seed must be 0 or more")


def training_of(config: Training) -> Training:
    """The part of a job's flags that says how a network is trained."""
    return Training(**{field.name: getattr(config, field.name) for field in fields(Training)})


@dataclass(frozen=True, kw_only=True)
class CrossvalConfig(Training):
    """Flags of jobs/crossval.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py, one or several."""
    output: str
    """Run directory to write: metrics.json, predictions.parquet, a checkpoint a fold."""
    policy: str | None = None
    """Policy file (YAML), or `learn`: learn one for each test fold from its training folds; default: originals and all
    copies alike."""
    policy_epochs: int = 40
    """Passes over the clips in the trainings that --policy learn learns from."""
    policy_repetitions: int = 1
    """How often these trainings are repeated with other random numbers."""
    baseline: str | None = None
    """Crossval run directory over the same clips to compare with, clip by clip."""
    seeds: int = 1
    """Repetitions with other random numbers."""
    num_workers: int = 1
    """Training workers of a fold; folds run side by side as the CPUs allow."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.policy_epochs >= 1, "--policy-epochs must be 1 or more")
        _require(self.policy_repetitions >= 1, "--policy-repetitions must be 1 or more")
        _require(self.seeds >= 1, "--seeds must be 1 or more")
        _require(self.num_workers >= 1, "--num-workers must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Training):
    """Flags of jobs/policy.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py with augmented copies (--augment) of all that is to be tried."""
    test_fold: int
    """Fold that the policy is for; its clips are not looked at."""
    output: str
    """Policy file to write (.yaml); beside it .csv and .png, and .learned/ with what the trainings found."""
    epochs: int = 40
    """Passes over the training clips, in each of the trainings."""
    repetitions: int = 2
    """How often the trainings are repeated with other random numbers."""
    seed: int = 0
    """Seed of the first repetition."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.repetitions >= 1, "--repetitions must be 1 or more")
        _require(self.seed >= 0, "--seed must be 0 or more")


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of jobs/evaluate.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py, one or several."""
    checkpoint: str
    """Checkpoint directory, or the run directory of jobs/train.py."""
    output: str
    """Run directory to write: metrics.json, predictions.parquet."""
    test_fold: int | None = None
    """Fold to evaluate; default: every clip."""
    batch_size: int = 16
    """Segments in a forward pass."""
    num_actors: int = 0
    """Worker processes; 0: one for each CPU there is when the job starts."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "--batch-size must be 1 or more")
        _require(self.num_actors >= 0, "--num-actors must be 0 or more")


@dataclass(frozen=True)
class TagConfig:
    """Flags of jobs/tag.py."""

    input: str
    """Folder, s3://bucket/prefix or manifest file with the recordings."""
    checkpoint: str
    """Checkpoint directory, or the run directory of jobs/train.py."""
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
        _require(self.window_s is None or self.window_s > 0, "--window-s must be positive")
        _require(self.hop_s is None or self.hop_s > 0, "--hop-s must be positive")
        _require(self.top_k >= 1, "--top-k must be 1 or more")
        _require(0 <= self.threshold <= 1, "--threshold must lie between 0 and 1")
        _require(self.min_age_s >= 0, "--min-age-s must be 0 or more")
        _require(self.batch_size >= 1, "--batch-size must be 1 or more")
        _require(self.unit_s > 0, "--unit-s must be positive")
        _require(self.num_actors >= 0, "--num-actors must be 0 or more")
        _require(0 <= self.max_reject_fraction <= 1, "--max-reject-fraction must lie between 0 and 1")
        _require(self.limit is None or self.limit > 0, "--limit must be positive")


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
        _require(self.folds >= 2, "--folds must be 2 or more")
        _require(self.epochs >= 1, "--epochs must be 1 or more")
