"""CRNN: a compact convolutional network whose features a recurrent layer reads over time."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from audioclf.errors import ConfigError
from audioclf.models.network import Network

CHANNELS = (24, 48, 96, 192)
N_HIDDEN = 64


class CRNN(Network):
    head: ClassVar[str] = "classifier"
    min_frames: ClassVar[int] = 16

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__(n_mels)
        if n_mels < 16:
            raise ConfigError(f"crnn takes 16 mel bands or more, the front end gives {n_mels}")
        self.blocks = nn.Sequential(*[_block(a, b) for a, b in zip((1, *CHANNELS[:-1]), CHANNELS, strict=True)])
        self.gru = nn.GRU(CHANNELS[-1], N_HIDDEN, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.5 if dropout is None else dropout)
        self.classifier = nn.Linear(2 * N_HIDDEN, n_classes)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.standardise(log_mel)).mean(2)
        x, _ = self.gru(x.transpose(1, 2))
        return x.mean(1) + x.amax(1)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(embedding))

    def stages(self) -> Sequence[nn.Module]:
        return *self.blocks, self.gru


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True), nn.MaxPool2d(2))
