"""Train a network on shards in memory. Plain torch, no Ray."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from audioclf import models
from audioclf.batch_augment import BatchAugment
from audioclf.config import Training
from audioclf.errors import TrainingError
from audioclf.inference import as_tensor, patches_at
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.shards import Examples


def seed_everything(*parts: int) -> None:
    """Make what torch draws next (weights, dropout, changes to patches) a function of `parts` alone."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))


@dataclass(frozen=True)
class Share:
    """The part of every step that one of several training workers does."""

    rank: int = 0
    world_size: int = 1


class RowDraw:
    """Draws, for each segment, one of its rows: the original or a copy.

    Args:
        clip_ids, segment_indices: [N] of the rows.
        weights: [N] how often a row is drawn against the other rows of its segment; a segment whose rows all have
            the weight 0 is left out.
    """

    def __init__(self, clip_ids: Sequence[str], segment_indices: Sequence[int], weights: np.ndarray):
        numbers: dict[tuple[str, int], int] = {}
        pairs = zip(clip_ids, segment_indices, strict=True)
        segment = np.array([numbers.setdefault(pair, len(numbers)) for pair in pairs])
        rows = np.flatnonzero(weights > 0)
        self._rows = rows[np.argsort(segment[rows], kind="stable")]
        self._bounds = np.cumsum(weights[self._rows])
        self._first = np.flatnonzero(np.diff(segment[self._rows], prepend=-1))
        self._last = np.append(self._first[1:], len(self._rows)) - 1
        self._begin = self._bounds[self._first] - weights[self._rows[self._first]]

    def __len__(self) -> int:
        return len(self._first)

    def draw(self, numbers: np.ndarray) -> np.ndarray:
        """[S] row indices, one of each segment, from [S] numbers in [0, 1)."""
        at = self._begin + numbers * (self._bounds[self._last] - self._begin)
        found = np.searchsorted(self._bounds, at, side="right")
        return self._rows[np.clip(found, self._first, self._last)]  # where rounding led to a neighbour


class Trainer:
    """Trains one network; its randomness depends on the seed and the epoch alone, so a resumed run is the same run.

    Args:
        examples: the training rows.
        vocabulary: of their labels.
        training: how.
        seed: of the weights, the order of segments, their rows, the patches and changes to them, and the dropout.
        network: the network, possibly wrapped for several workers; see `build_network`.
        share: of each step.
        row_weights: [N] how often an epoch shows a row, against the other rows of its segment; None: all alike.

    Attributes:
        optimizer: its state is part of what a resumed run needs.
        n_segments: that an epoch shows.
        steps_per_epoch: of the optimizer.

    Raises:
        ConfigError: the front end's pictures can't be changed as `training` asks for.
    """

    def __init__(
        self,
        examples: Examples,
        vocabulary: Vocabulary,
        training: Training,
        seed: int,
        network: nn.Module,
        share: Share,
        row_weights: np.ndarray | None = None,
    ):
        self._training, self._seed, self._share = training, seed, share
        self._network = network
        self._core = cast(Network, getattr(network, "module", network))  # inside the wrapper
        self._multi_label = vocabulary.multi_label
        self._log_mel = as_tensor(examples.log_mel)
        self._augment = BatchAugment.of(training, examples.front_end)
        self._valid = examples.valid_frames
        self._targets = torch.from_numpy(vocabulary.targets(examples.labels))
        self._device = next(network.parameters()).device
        self.optimizer = _optimizer(self._core, training)
        weights = np.ones(len(examples)) if row_weights is None else row_weights
        self._rows = RowDraw(examples.columns["clip_id"], examples.columns["segment_index"], weights)
        self.n_segments = len(self._rows)
        self.steps_per_epoch = math.ceil(self.n_segments / training.batch_size)

    def epoch(self, epoch: int) -> tuple[float, float]:
        """One pass over this worker's share of the segments, counted from 0: of each, one row is drawn.

        Returns:
            The summed loss, and the number of clips classified right on the way.

        Raises:
            TrainingError: the loss is NaN or infinite.
        """
        self._network.train()
        rng = np.random.default_rng([self._seed, epoch])
        order, where = rng.permutation(self.n_segments), rng.random(self.n_segments)
        rows = self._rows.draw(rng.random(self.n_segments))
        seed_everything(self._seed, epoch, self._share.rank)
        loss_sum = hits = 0.0
        for step, batch in enumerate(np.array_split(order, self.steps_per_epoch)):
            self._set_learning_rate(epoch + step / self.steps_per_epoch)
            mine = np.array_split(batch, self._share.world_size)[self._share.rank]
            loss, hit = self._step(rows[mine], where[mine], len(batch))
            loss_sum, hits = loss_sum + loss, hits + hit
        if not math.isfinite(loss_sum):
            raise TrainingError(f"epoch {epoch + 1}: the loss is {loss_sum}; try a smaller --learning-rate")
        return loss_sum, hits

    def _step(self, rows: np.ndarray, where: np.ndarray, batch_size: int) -> tuple[float, float]:
        """A step of the optimizer; gives this worker's summed loss and number of hits."""
        patches = draw_patches(self._log_mel, self._valid, rows, where, self._core.patch_frames).to(self._device)
        targets = self._targets[torch.from_numpy(rows)].to(self._device)
        patches, soft_targets = self._augment(patches, targets, self._core.mean)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._training.amp):
            logits = self._network(patches)
        logits = logits.float()
        loss_sum = _loss(logits, soft_targets, self._multi_label)
        # Each worker's gradients are averaged with the others': scaled so, their mean is that of one large batch.
        loss = loss_sum * (self._share.world_size / batch_size)
        penalty = torch.stack([weight.square().sum() for weight in self._core.dense_weights()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self._training.l2 * penalty).backward()
        self.optimizer.step()
        hits = targets.gather(1, logits.argmax(1, keepdim=True)).sum()  # one of the clip's labels is enough
        return float(loss_sum.detach()), float(hits)

    def _set_learning_rate(self, epoch: float) -> None:
        rate = self._training.learning_rate
        if self._training.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * epoch / self._training.epochs))
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def fit(examples: Examples, vocabulary: Vocabulary, training: Training, seed: int, row_weights: np.ndarray) -> Network:
    """A network trained in this process, in evaluation mode; see `Trainer`."""
    network = build_network(training, examples, vocabulary, seed)
    trainer = Trainer(examples, vocabulary, training, seed, network, Share(), row_weights)
    for epoch in range(training.epochs):
        trainer.epoch(epoch)
    return network.eval()


def build_network(training: Training, examples: Examples, vocabulary: Vocabulary, seed: int) -> Network:
    """A network with fresh weights that standardises its input as the training rows ask for."""
    seed_everything(seed)
    network = models.build(training.model, examples.front_end.n_features, len(vocabulary), training.dropout)
    mean, std = band_statistics(examples)
    network.mean.copy_(torch.from_numpy(mean)[:, None])
    network.std.copy_(torch.from_numpy(std)[:, None])
    return network


def band_statistics(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [n_mels] of each mel band over the frames that are not padding."""
    total = np.zeros((2, examples.log_mel.shape[1]))
    frames = 0
    for picture, valid in zip(examples.log_mel, examples.valid_frames, strict=True):
        real = picture[:, :valid].astype(np.float64)
        total += np.stack([real.sum(1), np.square(real).sum(1)])
        frames += int(valid)
    mean, square = total / frames
    std = np.sqrt(np.maximum(square - np.square(mean), 1e-6))
    return mean.astype(np.float32), std.astype(np.float32)


def draw_patches(
    log_mel: torch.Tensor, valid_frames: np.ndarray, rows: np.ndarray, where: np.ndarray, frames: int | None
) -> torch.Tensor:
    """A patch of each row.

    Args:
        log_mel: [N, M, T].
        valid_frames: [N]; patches lie within them where they are long enough.
        rows: [B] indices.
        where: [B] numbers in [0, 1): how far into the row each patch begins.
        frames: of a patch; None: a row is taken whole.

    Returns:
        [B, M, frames] float32.
    """
    frames = frames or log_mel.shape[2]
    room = np.maximum(np.minimum(valid_frames[rows], log_mel.shape[2]) - frames, 0)
    starts = torch.from_numpy(np.floor(where * (room + 1)).astype(np.int64))
    return patches_at(log_mel, torch.from_numpy(rows), starts, frames)


def _optimizer(network: Network, training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adam":
        return torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    return torch.optim.SGD(network.parameters(), lr=training.learning_rate, momentum=0.9)


def _loss(logits: torch.Tensor, targets: torch.Tensor, multi_label: bool) -> torch.Tensor:
    """Summed over rows: cross-entropy, or binary cross-entropy (mean over classes) for several labels.

    Targets may lie between 0 and 1.
    """
    if multi_label:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).sum()
    return F.cross_entropy(logits, targets, reduction="sum")
