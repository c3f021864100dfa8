"""CRNN: a compact convolutional network, and a recurrent layer that reads its features over time."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from audioclf.errors import ConfigError
from audioclf.models.network import Network
from audioclf.models.texture import Texture

WIDTH = 24
"""Channels of the first layer; each after it has twice as many."""
N_ROWS = 4
"""Of bands, left to the recurrent layer: so many or a few more, and fewer where the front end gives few bands."""
N_HIDDEN = 64
"""Of each direction."""
TEXTURE_SHARE = 0.3
"""Of the logits, where statistics of the picture have their vote; what is left is the recurrent layer's."""


class CRNN(Network):
    """540,594 parameters at 10 classes; 228 million multiplications for 128 bands and 216 frames.

    For small sets, trained on a CPU. Four convolutions, of which the first halves both sides of the picture, each with
    batch norm and ReLU, the others then with max-pooling; a GRU over time, eight frames a step, in both directions, to
    which the rows of bands that are left are features of their own; mean and maximum over time, added. Of width 16,
    320,890 parameters and 104 million multiplications.

    In the manner of E. Çakır et al., "Convolutional Recurrent Neural Networks for Polyphonic Sound Event Detection"
    (2017), arXiv 1702.06286.

    Args:
        n_mels: bands of the pictures.
        n_classes: logits.
        dropout: before the last layer; None: 0.5.
        width: channels of the first layer.
        texture: in evaluation, let statistics of the picture have their vote too; see `Texture`.
    """

    min_frames: ClassVar[int] = 8
    min_bands: ClassVar[int] = 16
    head: ClassVar[str] = "classifier"

    def __init__(
        self, n_mels: int, n_classes: int, dropout: float | None = None, width: int = WIDTH, texture: bool = False
    ):
        super().__init__(n_mels)
        if n_mels < self.min_bands:
            raise ConfigError(f"crnn takes {self.min_bands} mel bands or more, the front end gives {n_mels}")
        a, b, c, d = width, 2 * width, 4 * width, 8 * width
        rows = math.ceil(n_mels / 2) // 4  # after the first three
        pool = max(1, rows // N_ROWS)  # over bands alone: steps of 0.19 s with logmel44k
        self.blocks = nn.Sequential(_stem(a), _block(a, b, (2, 2)), _block(b, c, (2, 2)), _block(c, d, (pool, 1)))
        self.gru = _Gru(d * (rows // pool), N_HIDDEN, batch_first=True, bidirectional=True)
        self.texture = Texture(n_mels, n_classes) if texture else None
        self.dropout = nn.Dropout(0.5 if dropout is None else dropout)
        self.classifier = nn.Linear(2 * N_HIDDEN, n_classes)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, T] to [B, 128], and in evaluation the texture's statistics after them: training needs none."""
        pictures = self.standardise(log_mel)
        features = self.blocks(pictures).flatten(1, 2)  # [B, channels × rows, T']
        steps = self.gru(features.transpose(1, 2))
        events = steps.mean(1) + steps.amax(1)
        if self.texture is None or self.training:
            return events
        return torch.cat([events, self.texture(pictures.squeeze(1))], dim=1)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        events = embedding[:, : 2 * N_HIDDEN]
        logits = self.classifier(self.dropout(events))
        if self.texture is None or self.training:
            return logits
        return torch.lerp(logits, self.texture.vote(embedding[:, 2 * N_HIDDEN :]), TEXTURE_SHARE)

    def stages(self) -> Sequence[nn.Module]:
        return *self.blocks, self.gru

    def replace_head(self, n_classes: int) -> None:
        super().replace_head(n_classes)
        if self.texture is not None:
            self.texture.forget(n_classes)


class _Gru(nn.GRU):
    """Less the checks of its input's shape, which can't be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """[B, T, E] to [B, T, both directions]."""
        weights = [getattr(self, name) for name in self._flat_weights_names]
        start = x.new_zeros(2, x.shape[0], self.hidden_size)
        return torch.gru(x, start, weights, True, 1, 0.0, self.training, True, True)[0]


def _stem(n_out: int) -> nn.Sequential:
    """A stride instead of pooling: a quarter of the work in the layer that has most pixels."""
    conv = nn.Conv2d(1, n_out, 5, stride=2, padding=2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


def _block(n_in: int, n_out: int, pool: tuple[int, int]) -> nn.Sequential:
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True), nn.MaxPool2d(pool))
