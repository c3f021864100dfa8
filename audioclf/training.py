"""Train a network on rows of shards. Plain torch, no Ray."""

import contextlib
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audioclf import models, optimisation, texture_vote, waveforms
from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.pcm import AnyFrontEnd, Pcm
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.errors import CheckpointMismatchError, ConfigError, TrainingError
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.sampling import RowDraw, balanced_weights, draw_segments
from audioclf.training_input import TrainingInput, band_statistics
from audioclf.training_rows import Rows, Share

DEFAULT_MODEL = "sbcnn"
DEFAULT_FRONT_ENDS = {spec.sample_rate: spec for spec in map(get_front_end, ("logmel44k", "efficientat32k"))}
"""Of shards of waveforms, by their rate."""


def seed_everything(*parts: int) -> None:
    """Make what torch draws next (weights, dropout, changes to patches) a function of `parts` alone."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


def has_bfloat16(device: torch.device) -> bool:
    """Whether --amp is worth it there: a CPU without bfloat16 arithmetic imitates it, ten times slower than float32."""
    if device.type == "cuda":
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16", "bf16"))


def alone(network: Network) -> nn.Module:
    """The network as it is, for a single worker."""
    return network


class Trainer:
    """Trains one network; its randomness depends on the seed and the epoch alone, so a resumed run is the same run.

    Args:
        rows: to train on.
        vocabulary: of their labels.
        training: how.
        seed: of the order of segments, their rows, the patches and changes to them, and the dropout.
        network: to train; see `build_network`.
        front_end: of its pictures.
        row_weights: [N] how often an epoch shows a row, against the other rows of its segment.
        share: of each step that this worker does.
        wrap: makes of the network one that averages its gradients with those of the other workers.

    Attributes:
        n_segments: that an epoch shows.

    Raises:
        ConfigError: the front end's pictures can't be changed as `training` asks for, or there is nothing to draw.
    """

    def __init__(
        self,
        rows: Rows,
        vocabulary: Vocabulary,
        training: Training,
        seed: int,
        network: Network,
        front_end: FrontEnd,
        row_weights: np.ndarray,
        share: Share | None = None,
        wrap: Callable[[Network], nn.Module] = alone,
    ):
        self._rows, self._vocabulary, self._training, self._seed = rows, vocabulary, training, seed
        self._share = share or Share()
        self._network, self._wrap, self._wrapped = network, wrap, cast(nn.Module, network)
        self._layers, self._n_frozen = optimisation.layers(network), -1
        device = network.mean.device
        self._amp = training.amp and has_bfloat16(device)
        self._input = TrainingInput(training, rows.front_end, front_end, network.patch_frames, device)
        self._optimizer = optimisation.optimizer(network, training)
        self._average = optimisation.averaged(network, training.ema) if training.ema else None
        self._start: dict[str, torch.Tensor] | None = None
        self._draw = RowDraw(rows.columns["clip_id"], rows.columns["segment_index"], row_weights)
        self.n_segments = len(self._draw)
        self._segment_weights: np.ndarray | None = None
        if training.sampling == "balanced":
            self._segment_weights = balanced_weights(rows.columns["labels"], self._draw.first_rows)

    def epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over this worker's share of the segments, counted from 0: of each, one row is drawn.

        Returns:
            The summed loss, and the number of clips classified right on the way.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        self._prepare_layers(epoch)
        rng = np.random.default_rng([self._seed, epoch])
        segments, where = self._segments(rng), rng.random(self.n_segments)
        drawn = self._draw.draw(rng.random(self.n_segments), segments)
        plan = self._rows.plan(drawn, self._training.batch_size, self._share, rng)
        seed_everything(self._seed, epoch, self._share.rank)
        total = torch.zeros(2, dtype=torch.float64, device=self._network.mean.device)
        with contextlib.closing(self._rows.batches([drawn[mine] for mine in plan.mine])) as batches:
            for step, (mine, stored) in enumerate(zip(plan.mine, batches, strict=True)):
                rate = optimisation.learning_rate(self._training, epoch + step / len(plan.sizes))
                optimisation.set_learning_rate(self._optimizer, rate)
                total += self._step(drawn[mine], stored, where[mine], plan.sizes[step])
        loss_sum, hits = total.tolist()
        if not math.isfinite(loss_sum):
            raise TrainingError(f"epoch {epoch + 1}: the loss is {loss_sum}; try a smaller --learning-rate")
        return loss_sum, hits

    def trained(self) -> Network:
        """The network as it is to be used, in evaluation mode: its running average, mixed with its start, if asked."""
        network = cast(Network, self._network if self._average is None else self._average.module)
        if self._start is not None:
            network = optimisation.mixed(network, self._start, self._training.start_share)
        return network.eval()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs but the number of epochs done."""
        parts = {"network": self._network, "optimizer": self._optimizer, "average": self._average}
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return state if self._start is None else {**state, "start": self._start}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if "start" in state:
            device = self._network.mean.device
            self._start = {name: value.to(device) for name, value in state["start"].items()}

    def _segments(self, rng: np.random.Generator) -> np.ndarray:
        """Those that an epoch shows, in random order."""
        if self._segment_weights is None:
            return rng.permutation(self.n_segments)
        return draw_segments(self._segment_weights, rng)

    def _prepare_layers(self, epoch: int) -> None:
        """Let those layers learn that are to; wrapped anew where they change, since the wrapper sees it only then."""
        self._network.train()
        n_frozen = optimisation.n_frozen(self._training, len(self._layers), epoch)
        optimisation.freeze(self._layers, n_frozen)
        if self._training.start_share and self._start is None and n_frozen == 0:
            self._start = {name: value.clone() for name, value in self._network.state_dict().items()}
        if n_frozen != self._n_frozen:
            self._wrapped, self._n_frozen = self._wrap(self._network), n_frozen

    def _step(self, rows: np.ndarray, stored: np.ndarray, where: np.ndarray, batch_size: int) -> torch.Tensor:
        """A step of the optimizer; gives this worker's summed loss and number of hits."""
        mean, device = self._network.mean, self._network.mean.device
        targets = torch.from_numpy(self._vocabulary.targets(self._rows.labels(rows))).to(device)
        patches, soft_targets = self._input(stored, self._rows.valid_frames[rows], where, targets, mean)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._amp):
            logits = self._wrapped(patches)
        logits = logits.float()
        loss_sum = _loss(logits, soft_targets, self._vocabulary.multi_label, self._training.label_smoothing)
        # Each worker's gradients are averaged with the others': scaled so, their mean is that of one large batch.
        loss = loss_sum * (self._share.world_size / batch_size) + self._penalty()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._network)
        hits = targets.gather(1, logits.argmax(1, keepdim=True)).sum()  # one of the clip's labels is enough
        return torch.stack([loss_sum.detach(), hits])

    def _penalty(self) -> torch.Tensor | float:
        l1, l2 = self._training.l1, self._training.l2
        if not l1 and not l2:
            return 0.0
        weights = list(self._network.dense_weights())
        return torch.stack([l1 * weight.abs().sum() + l2 * weight.square().sum() for weight in weights]).sum()


def fit(
    rows: Rows,
    vocabulary: Vocabulary,
    training: Training,
    seed: int,
    front_end: FrontEnd,
    row_weights: np.ndarray,
    start: Checkpoint | None = None,
) -> Network:
    """A network trained in this process, in evaluation mode; see `Trainer` and `build_network`."""
    network = build_network(training, rows, vocabulary, seed, front_end, start, row_weights)
    trainer = Trainer(rows, vocabulary, training, seed, network, front_end, row_weights)
    for epoch in range(training.epochs):
        trainer.epoch(epoch)
    return trainer.trained()


def build_network(
    training: Training,
    rows: Rows,
    vocabulary: Vocabulary,
    seed: int,
    front_end: FrontEnd,
    start: Checkpoint | None = None,
    row_weights: np.ndarray | None = None,
) -> Network:
    """A network with fresh weights that standardises its input as the rows ask for, or one that goes on from others.

    Args:
        training: names the network.
        rows: to be trained on.
        vocabulary: of their labels.
        seed: of the fresh weights.
        front_end: of its pictures.
        start: weights to begin with, all but the last layer's where that is for other classes, and all but the vote
            of texture statistics, which is fitted to these rows in any case.
        row_weights: [N] see `Trainer`; None: all alike.

    Raises:
        CheckpointMismatchError: `start` is another network, or for another front end.
    """
    seed_everything(seed)
    network = _with_weights(training, rows, vocabulary, front_end, start)
    if network.texture is not None:
        weights = np.ones(len(rows)) if row_weights is None else row_weights
        texture_vote.fit(network, rows, weights, vocabulary, training, front_end)
    return network


def _with_weights(
    training: Training, rows: Rows, vocabulary: Vocabulary, front_end: FrontEnd, start: Checkpoint | None
) -> Network:
    """Fresh ones, or those of `start`; without the vote of texture statistics."""
    name = model_name(training, start)
    if start is None:
        network = models.build(name, front_end.n_features, len(vocabulary), training.dropout)
        mean, std = band_statistics(rows, front_end)
        network.mean.copy_(torch.from_numpy(mean)[:, None])
        network.std.copy_(torch.from_numpy(std)[:, None])
        return network
    require_start(training, start, front_end)
    network = models.build(name, front_end.n_features, len(start.vocabulary), training.dropout)
    network.load_state_dict(start.network.state_dict())
    rows_of_start = vocabulary.rows_in(start.vocabulary)
    if rows_of_start is None:
        network.replace_head(len(vocabulary))
    else:
        network.reorder_classes(rows_of_start)
    return network


def require_start(training: Training, start: Checkpoint, front_end: FrontEnd) -> None:
    """Raise CheckpointMismatchError unless a training can begin with these weights, on pictures of this front end."""
    start.require_front_end(front_end, "the pictures to train on")
    name = model_name(training, start)
    if start.name != name:
        raise CheckpointMismatchError(f"--init {training.init}: a {start.name}; it is to start a {name}")


def front_end_of(stored: AnyFrontEnd, start: Checkpoint | None, chosen: FrontEnd | None) -> FrontEnd:
    """The front end of the pictures that a network is trained on.

    Args:
        stored: that of the shards.
        start: weights to begin with.
        chosen: by the user, for shards of waveforms.

    Raises:
        ConfigError: shards of pictures leave no choice; or a front end of another rate than the waveforms.
    """
    if not isinstance(stored, Pcm):
        if chosen and chosen != stored:
            raise ConfigError(
                f"--frontend {chosen.name}: the shards hold pictures of {stored.name}; leave it out, or take "
                "shards of waveforms (extract --frontend pcm32k or pcm44k)"
            )
        return stored
    spec = chosen or (start.front_end if start else DEFAULT_FRONT_ENDS[stored.sample_rate])
    waveforms.require(stored, spec)
    return spec


def model_name(training: Training, start: Checkpoint | None) -> str:
    """The network that is to be trained."""
    return training.model or (start.name if start else DEFAULT_MODEL)


def _loss(logits: torch.Tensor, targets: torch.Tensor, multi_label: bool, smoothing: float) -> torch.Tensor:
    """Summed over rows: cross-entropy, or binary cross-entropy (mean over classes) for several labels.

    Targets may lie between 0 and 1. Smoothing spreads a share of them evenly: over all classes, or, for several labels,
    over the presence and absence of each.
    """
    if multi_label:
        targets = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
