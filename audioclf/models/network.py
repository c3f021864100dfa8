"""What all networks have in common."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn


class Network(nn.Module):
    """A network over log-mel pictures.

    It standardises its input itself, band by band, so that the statistics of the training clips travel with the
    weights.

    Attributes:
        patch_frames: the number of frames it takes; longer segments are seen patch by patch.
    """

    patch_frames: ClassVar[int]

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_mels: int, n_classes: int, dropout: float):
        super().__init__()
        self.n_classes = n_classes
        self.register_buffer("mean", torch.zeros(n_mels, 1))
        self.register_buffer("std", torch.ones(n_mels, 1))

    def standardise(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, T] dB to [B, 1, M, T] of mean 0 and deviation 1 in each band."""
        return ((log_mel - self.mean) / self.std).unsqueeze(1)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, patch_frames] float32, dB, to [B, E]: what the last layer classifies."""
        raise NotImplementedError

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """[B, E] to logits [B, C]."""
        raise NotImplementedError

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, patch_frames] float32, dB, to logits [B, C]."""
        return self.classify(self.embed(log_mel))

    def regularised(self) -> Iterator[torch.Tensor]:
        """The weights that the L2 penalty is put on."""
        raise NotImplementedError
