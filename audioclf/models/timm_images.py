"""timm's networks for images, over log-mel pictures of one channel. timm is imported only where one is asked for."""

import difflib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import nn

from audioclf.errors import ConfigError
from audioclf.models.network import Network

_SIZES: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True, "dynamic_img_pad": True}, {"strict_img_size": False})
"""How networks that are made for one size of picture are told to take others; each knows one of them, or none."""

_REFUSALS = (TypeError, ValueError, RuntimeError, AssertionError, IndexError, AttributeError, KeyError)
"""What timm's networks raise for arguments or pictures that they do not take."""


def check_name(name: str) -> None:
    """Raise ConfigError unless timm is installed and has a network of that name."""
    timm = _library(name)
    if "/" in name or ":" in name or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; timm.list_models() lists them"
        raise ConfigError(f"timm:{name}: timm {timm.__version__} has no such network{hint}")


def _library(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"timm:{name}: timm is not installed; pip install audioclf[timm]") from error
    return timm


class TimmNetwork(Network):
    """A network of timm with fresh weights, its own global pooling, and a dense layer of ours.

    Source: R. Wightman, "PyTorch Image Models", https://github.com/huggingface/pytorch-image-models.
    """

    min_frames: ClassVar[int] = 32  # of most of them, the strides make one
    head: ClassVar[str] = "classifier"

    def __init__(self, name: str, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__(n_mels)
        self.backbone = _backbone(name)
        self.dropout = nn.Dropout(dropout or 0.0)
        # More frames than the least, so that no multiple of a patch is all it takes.
        n_embedding = _embedding_size(self.backbone, name, n_mels, self.min_frames + 13)
        self.classifier = nn.Linear(n_embedding, n_classes)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        return self.backbone(self.standardise(log_mel))

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(embedding))

    def stages(self) -> Sequence[nn.Module]:
        """The parts of its parts where those are lists; all in one where some weights belong to none of them."""
        if any(True for _ in self.backbone.parameters(recurse=False)):
            return (self.backbone,)
        parts = []
        for part in self.backbone.children():
            parts += part if isinstance(part, nn.Sequential | nn.ModuleList) else [part]
        return [part for part in parts if any(True for _ in part.parameters())]

    def dense_weights(self) -> Iterator[torch.Tensor]:
        """That of the last layer: which others are dense ones differs from network to network."""
        yield self.classifier.weight


def _backbone(name: str) -> nn.Module:
    """Without classifier; its pooled features are what it gives."""
    timm = _library(name)
    kwargs = {"pretrained": False, "in_chans": 1, "num_classes": 0}
    config = timm.models.get_pretrained_cfg(name)
    if not (config and config.fixed_input_size):
        return timm.create_model(name, **kwargs)
    for size in _SIZES:
        try:
            return timm.create_model(name, **kwargs, **size)
        except TypeError:  # it has no such argument
            continue
    raise ConfigError(f"timm:{name}: takes pictures of one size only; choose another, such as timm:resnet18")


def _embedding_size(backbone: nn.Module, name: str, n_mels: int, n_frames: int) -> int:
    """What a small picture makes; raises ConfigError where the network can't take it."""
    training = backbone.training
    try:
        with torch.no_grad():
            shape = backbone.eval()(torch.zeros(1, 1, n_mels, n_frames)).shape
    except _REFUSALS as error:
        size = f"{n_mels} bands and {n_frames} frames"
        raise ConfigError(f"timm:{name}: does not take pictures of {size}: {error}") from error
    backbone.train(training)
    if len(shape) != 2:
        raise ConfigError(f"timm:{name}: gives {list(shape)} where [1, features] should be: no network for classes")
    return shape[1]
