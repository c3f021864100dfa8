"""What all networks have in common."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from audioclf.models.texture import Texture


@torch.jit.script_if_tracing  # the trace of a short segment must not pad a long one
def at_least(n_frames: int, log_mel: torch.Tensor) -> torch.Tensor:
    """[B, M, T], of n_frames or more: a shorter segment goes on with its last frame."""
    missing = n_frames - log_mel.shape[-1]
    if missing > 0:
        return F.pad(log_mel, [0, missing], mode="replicate")
    return log_mel


class Network(nn.Module):
    """A network over log-mel pictures.

    It standardises its input itself, band by band, so that the statistics of the training clips travel with the
    weights. Published weights come with a mean of 0 and a deviation of 1.

    Attributes:
        patch_frames: the number of frames it takes, longer segments being seen patch by patch; None: it takes segments
            of any length whole.
        min_frames: that its pooling takes at least; a shorter segment goes on with its last frame.
        head: the name of its last layer, an nn.Linear that gives the logits.
        texture: statistics of the picture that have a vote in evaluation, if the network has them.
    """

    patch_frames: ClassVar[int | None] = None
    min_frames: ClassVar[int] = 1
    head: ClassVar[str]

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, n_mels: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels, 1))
        self.register_buffer("std", torch.ones(n_mels, 1))
        self.texture: Texture | None = None  # not as an attribute of the class, which would hide the module

    @property
    def n_classes(self) -> int:
        return cast(nn.Linear, self.get_submodule(self.head)).out_features

    def standardise(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, T], the front end's values, to [B, 1, M, T]; T is min_frames or more afterwards."""
        pictures = (log_mel - self.mean) / self.std
        return (pictures if self.min_frames == 1 else at_least(self.min_frames, pictures)).unsqueeze(1)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, T] float32, the front end's values, to [B, E]: what says most about a sound whatever the classes."""
        raise NotImplementedError

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """[B, E] to logits [B, C]."""
        raise NotImplementedError

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """[B, M, T] float32, the front end's values, to logits [B, C]."""
        return self.classify(self.embed(log_mel))

    def stages(self) -> Sequence[nn.Module]:
        """Its parts with weights, each once, from the input to the last before the head."""
        raise NotImplementedError

    def replace_head(self, n_classes: int) -> None:
        """Put a fresh last layer in, for other classes."""
        old = cast(nn.Linear, self.get_submodule(self.head))
        self.set_submodule(self.head, nn.Linear(old.in_features, n_classes))

    def reorder_classes(self, rows: Sequence[int]) -> None:
        """Put the classes of the last layer into another order: row i becomes what row rows[i] was."""
        head = cast(nn.Linear, self.get_submodule(self.head))
        with torch.no_grad():
            head.weight.copy_(head.weight[list(rows)].clone())
            head.bias.copy_(head.bias[list(rows)].clone())

    def dense_weights(self) -> Iterator[torch.Tensor]:
        """The weights of the dense layers, which the L1 and L2 penalties are put on."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                yield module.weight
