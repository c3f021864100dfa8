"""Flags of the jobs that train and measure: train, crossval, policy, evaluate."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from audioclf.config.checks import require

MIN_CROP_S = 0.1
MAX_SPEED = 4.0
"""Two octaves."""


@dataclass(frozen=True)
class Training:
    """How a network is trained; the part that train and crossval share."""

    recipe: str | None = None
    """Preset of the flags below, which other flags change: scratch-small, finetune or probe; see README."""
    model: str | None = None
    """Network: sbcnn, crnn (crnnNN: of NN channels in its first layer, not 24; crnnNN-texture: and a vote of statistics
    of the picture), cnn6, cnn10, cnn14, mobilenetv1, mobilenetv2, mn04, mn10 (any mnNN of a width NN/10) or
    timm:NAME; default: that of --init, else sbcnn."""
    init: str | None = None
    """Weights to start from: a published network (mn04, or mn04:FILE), or a checkpoint directory; made with the same
    front end. For other classes than its own the last layer is replaced; a -texture network's vote is fitted anew in
    any case."""
    freeze: Literal["none", "backbone", "head-first", "gradual"] = "none"
    """Layers that keep their weights: none; all but the last (a linear probe); or, for the first --unfreeze-epochs, all
    but the last, and then none (head-first) or one less each time (gradual)."""
    unfreeze_epochs: float = 1.0
    """Epochs of the last layer alone, with --freeze head-first, where --schedule runs once for these and once for the
    rest; from one layer to the next, with gradual."""
    start_share: float = 0.0
    """With --freeze head-first: share of the final weights that is given to those with which all layers began to learn;
    so the network stays nearer to the published one."""
    layer_decay: float = 1.0
    """Learning rate of a layer as a share of that of the layer after it."""
    epochs: int = 120
    """Passes over the training clips."""
    batch_size: int = 32
    """Clips in a step, over all workers."""
    sampling: Literal["all", "balanced"] = "all"
    """An epoch shows each segment once; or draws as many so that rare classes come as often as common ones, and
    segments without a label not at all."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam, AdamW, or stochastic gradient descent (Nesterov momentum 0.9)."""
    learning_rate: float = 1e-3
    """Highest learning rate."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "cosine"
    """Learning rate: constant; down to 0 along half a cosine; or up from a 25th of the highest for 30 % of the steps
    and down to 0."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises evenly from 0, before the schedule."""
    weight_decay: float = 0.0
    """Decay of every weight but biases and normalisation, by the optimizer; with adamw apart from the gradient."""
    l1: float = 0.0
    """L1 penalty on the dense layers' weights, added to the loss."""
    l2: float = 1e-3
    """L2 penalty on the dense layers' weights, added to the loss."""
    dropout: float | None = None
    """Share of the dense layers' inputs left out in training; default: as published for the network (sbcnn 0.5)."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over all classes."""
    ema: float = 0.0
    """Keep a running average of the weights, with this decay a step (0.99, say), and use it in the end; 0: do not."""
    amp: bool = False
    """Mixed precision: bfloat16 where it is safe, on GPUs and on CPUs that compute in it; elsewhere float32."""
    frontend: str | None = None
    """Front end of the network, where shards hold waveforms (pcm32k, pcm44k): a name or a YAML file; default: that of
    --init, else logmel44k at 44.1 kHz and efficientat32k at 32 kHz."""
    mixup_alpha: float = 0.0
    """Mix each patch, and its labels, with another of the step: weights from Beta(a, a); 0: do not."""
    mask_bands: int = 0
    """Hide bands of each patch: greatest width of a mask, in bands; 0: none."""
    mask_frames: int = 0
    """Hide frames of each patch: greatest width of a mask, in frames; 0: none."""
    n_masks: int = 2
    """Masks of each kind that is on."""
    roll_s: float = 0.0
    """Roll each patch, or waveform, in time, the end to its beginning, by up to so many seconds either way."""
    gain_db: float = 0.0
    """Change the level of each patch, or waveform, by up to so many dB either way."""
    crop_s: float = 0.0
    """Train on a part of each waveform, so many seconds long, drawn from where it sounds; 0: on the whole."""
    speed: float = 1.0
    """Play each waveform up to so many times as fast or as slow (1.25, say), higher or lower with it; 1: as it is."""
    wave_mixup_alpha: float = 0.0
    """Mix each waveform, and its labels, with another of the step: weights from Beta(a, a); 0: do not."""
    wave_mixup_probability: float = 1.0
    """Share of waveforms that are mixed."""
    wave_mixing: Literal["mixup", "between-class"] = "mixup"
    """Mix waveforms by their samples, or by how loud they sound."""
    mel_jitter: bool = False
    """Draw both ends of the mel range anew in each step, as EfficientAT trains."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "--epochs must be 1 or more")
        require(self.batch_size >= 1, "--batch-size must be 1 or more")
        require(self.learning_rate > 0, "--learning-rate must be positive")
        require(self.dropout is None or 0 <= self.dropout < 1, "--dropout must be at least 0 and below 1")
        require(0 <= self.label_smoothing < 1, "--label-smoothing must be at least 0 and below 1")
        require(0 <= self.ema < 1, "--ema must be at least 0 and below 1")
        require(0 < self.layer_decay <= 1, "--layer-decay must be above 0, and 1 at most")
        require(self.unfreeze_epochs > 0, "--unfreeze-epochs must be positive")
        require(0 <= self.start_share < 1, "--start-share must be at least 0 and below 1")
        require(
            not self.start_share or self.freeze == "head-first",
            "--start-share needs --freeze head-first; without it, it must be 0",
        )
        require(
            self.freeze != "head-first" or (self.unfreeze_epochs % 1 == 0 and self.unfreeze_epochs < self.epochs),
            "--unfreeze-epochs: with head-first it must be a whole number below --epochs",
        )
        require(
            not (self.schedule == "one-cycle" and self.warmup_epochs),
            "--warmup-epochs: one-cycle has a rise of its own",
        )
        require(
            not self.warmup_epochs or self.warmup_epochs < self.epochs,
            f"--warmup-epochs must be fewer than --epochs ({self.epochs}), or the rate never reaches --learning-rate",
        )
        for name in (
            "warmup_epochs", "weight_decay", "l1", "l2", "mixup_alpha", "mask_bands", "mask_frames", "roll_s",
            "gain_db", "crop_s", "wave_mixup_alpha",
        ):  # fmt: skip
            require(0 <= getattr(self, name) < math.inf, f"--{name.replace('_', '-')} must be 0 or more, and finite")
        require(0 <= self.wave_mixup_probability <= 1, "--wave-mixup-probability must lie between 0 and 1")
        require(self.n_masks >= 1, "--n-masks must be 1 or more")
        require(not 0 < self.crop_s < MIN_CROP_S, f"--crop-s must be 0, or {MIN_CROP_S:g} or more")
        require(1 <= self.speed <= MAX_SPEED, f"--speed must lie between 1 and {MAX_SPEED:g}")


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
    """Training workers; 0 trains in the job's own process, for small sets: it starts sooner, and once killed begins
    anew."""
    min_workers: int | None = None
    """Train with so many where the cluster has no room for all of --num-workers; the others join when it has, and the
    epoch at hand is begun anew. Default: wait for all. Where nodes are started on demand, --num-workers must not be
    more than the cluster may ever have: for more, no node is started at all."""
    memory_mb: int | None = None
    """Memory for the training rows of each worker, in MB; default: half of its share of its machine. Rows that do not
    fit are streamed from the shards in every epoch."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_workers >= 0, "--num-workers must be 0 or more")
        require(
            self.min_workers is None or 1 <= self.min_workers <= self.num_workers,
            "--min-workers must lie between 1 and --num-workers",
        )
        require(self.memory_mb is None or self.memory_mb >= 1, "--memory-mb must be 1 or more")
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
    policy_validation_folds: int | None = None
    """Folds that each fold's policy is validated on, an even number: fewer folds, fewer trainings;
    default: all others."""
    baseline: str | None = None
    """Crossval run directory over the same clips to compare with, clip by clip."""
    seeds: int = 1
    """Repetitions with other random numbers."""
    num_workers: int = 1
    """Training workers of a fold; folds run side by side as the CPUs allow."""
    memory_mb: int | None = None
    """Memory for the training rows of each worker, in MB; see jobs/train.py."""
    use_gpu: bool = False
    """Give each worker a GPU; what --policy learn learns from is trained on CPUs all the same."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.policy_epochs is None or self.policy_epochs >= 1, "--policy-epochs must be 1 or more")
        require(self.policy_repetitions >= 1, "--policy-repetitions must be 1 or more")
        require(
            self.policy == "learn"
            or (self.policy_epochs, self.policy_validation_folds, self.policy_repetitions)
            == (None, None, CrossvalConfig.policy_repetitions),
            "--policy-epochs, --policy-repetitions and --policy-validation-folds need --policy learn",
        )
        _require_even(self.policy_validation_folds, "--policy-validation-folds")
        require(self.seeds >= 1, "--seeds must be 1 or more")
        require(self.num_workers >= 1, "--num-workers must be 1 or more")
        require(self.memory_mb is None or self.memory_mb >= 1, "--memory-mb must be 1 or more")


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
    validation_folds: int | None = None
    """Folds to validate on, an even number: fewer folds, fewer trainings; default: all but the test fold."""
    seed: int = 0
    """Seed of the first repetition."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.repetitions >= 1, "--repetitions must be 1 or more")
        _require_even(self.validation_folds, "--validation-folds")
        require(self.seed >= 0, "--seed must be 0 or more")


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of jobs/evaluate.py."""

    shards: tuple[str, ...]
    """Run directories of jobs/extract.py, one or several."""
    checkpoint: str
    """Checkpoint directory, the run directory of jobs/train.py, or a published network: NAME (mn04), NAME:FILE."""
    output: str
    """Run directory to write: metrics.json, predictions.parquet."""
    test_fold: int | None = None
    """Fold to evaluate; default: every clip."""
    write_thresholds: bool = False
    """Write each class's threshold, learned on the clips measured, into the checkpoint, where jobs/tag.py finds it.
    They must be clips it was not trained on: --test-fold is the fold that its training left out."""
    batch_size: int = 16
    """Segments in a forward pass."""
    num_actors: int = 0
    """Worker processes; 0: one for each CPU there is when the job starts."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "--batch-size must be 1 or more")
        require(self.num_actors >= 0, "--num-actors must be 0 or more")


def _require_even(n_folds: int | None, flag: str) -> None:
    require(
        n_folds is None or (n_folds >= 2 and n_folds % 2 == 0),
        f"{flag} {n_folds}: even, 2 or more, since a training serves two folds; leave it out for all",
    )
