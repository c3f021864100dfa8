"""Flags of the jobs that train and measure: train, crossval, policy, evaluate."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from audioclf.config.checks import require


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
    mixup_alpha: float = 0.0
    """Mix each patch, and its labels, with another of the step: weights from Beta(a, a); 0: do not."""
    mask_bands: int = 0
    """Hide bands of each patch: greatest width of a mask, in bands; 0: none."""
    mask_frames: int = 0
    """Hide frames of each patch: greatest width of a mask, in frames; 0: none."""
    n_masks: int = 2
    """Masks of each kind that is on."""
    roll_s: float = 0.0
    """Roll each patch in time, the end to its beginning, by up to so many seconds either way."""
    gain_db: float = 0.0
    """Change the level of each patch by up to so many dB either way."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "--epochs must be 1 or more")
        require(self.batch_size >= 1, "--batch-size must be 1 or more")
        require(self.learning_rate > 0, "--learning-rate must be positive")
        require(self.l2 >= 0, "--l2 must be 0 or more")
        require(0 <= self.dropout < 1, "--dropout must be at least 0 and below 1")
        for name in ("mixup_alpha", "mask_bands", "mask_frames", "roll_s", "gain_db"):
            require(0 <= getattr(self, name) < math.inf, f"--{name.replace('_', '-')} must be 0 or more, and finite")
        require(self.n_masks >= 1, "--n-masks must be 1 or more")


def training_of(config: Training) -> Training:
    """The part of a job's flags that says how a network is trained."""
    return Training(**{field.name: getattr(config, field.name) for field in fields(Training)})


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
    """Seed of the weights, the order of segments, the rows drawn, the patches, changes to them, and the dropout."""
    num_workers: int = 1
    """Training workers; 0 trains in the job's own process."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_workers >= 0, "--num-workers must be 0 or more")
        require(self.seed >= 0, "--seed must be 0 or more")


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
    policy_epochs: int | None = None
    """Passes over the clips in the trainings that --policy learn learns from; default: --epochs, since what
    augmentation does depends on how long a network is trained."""
    policy_repetitions: int = 2
    """How often these trainings are repeated with other random numbers; an even number keeps the effect of two sets
    together out of the effect of each."""
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
        require(self.policy_epochs is None or self.policy_epochs >= 1, "--policy-epochs must be 1 or more")
        require(self.policy_repetitions >= 1, "--policy-repetitions must be 1 or more")
        require(self.seeds >= 1, "--seeds must be 1 or more")
        require(self.num_workers >= 1, "--num-workers must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Training):
    """Flags of jobs/policy.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py with augmented copies (--augment) of all that is to be tried."""
    test_fold: int
    """Fold that the policy is for; its clips are not looked at."""
    output: str
    """Policy file to write (.yaml); beside it .csv and .png, and .learned/ with what the trainings found."""
    repetitions: int = 2
    """How often the trainings are repeated with other random numbers; an even number keeps the effect of two sets
    together out of the effect of each."""
    seed: int = 0
    """Seed of the first repetition."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.repetitions >= 1, "--repetitions must be 1 or more")
        require(self.seed >= 0, "--seed must be 0 or more")


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
        require(self.batch_size >= 1, "--batch-size must be 1 or more")
        require(self.num_actors >= 0, "--num-actors must be 0 or more")
