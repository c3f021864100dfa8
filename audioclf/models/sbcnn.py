"""SB-CNN: three small convolutions and two dense layers over a patch of about three seconds."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from audioclf.errors import ConfigError
from audioclf.models.network import Network


class SBCNN(Network):
    """241,434 parameters at 10 classes.

    Source: J. Salamon, J. P. Bello, "Deep Convolutional Neural Networks and Data Augmentation for Environmental
    Sound Classification" (2017), arXiv 1608.04363.
    """

    patch_frames: ClassVar[int | None] = 128
    min_frames: ClassVar[int] = 128
    head: ClassVar[str] = "dense2"

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__(n_mels)
        if n_mels != 128:
            raise ConfigError(f"sbcnn takes 128 mel bands, the front end gives {n_mels}")
        self.conv1 = nn.Conv2d(1, 24, 5)
        self.conv2 = nn.Conv2d(24, 48, 5)
        self.conv3 = nn.Conv2d(48, 48, 5)
        self.pool = nn.MaxPool2d((2, 4))  # mel, time
        self.dropout = nn.Dropout(0.5 if dropout is None else dropout)
        self.dense1 = nn.Linear(2400, 64)
        self.dense2 = nn.Linear(64, n_classes)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        x = self.standardise(log_mel)
        # Pooling before the ReLU gives the same values and leaves an eighth of them to rectify.
        x = F.relu(self.pool(self.conv1(x)))
        x = F.relu(self.pool(self.conv2(x)))
        x = F.relu(self.conv3(x))
        return F.relu(self.dense1(self.dropout(x.flatten(1))))

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.dense2(self.dropout(embedding))

    def stages(self) -> Sequence[nn.Module]:
        return self.conv1, self.conv2, self.conv3, self.dense1
