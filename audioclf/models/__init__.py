"""Networks by name. Each takes log-mel pictures and gives logits; see `Network`."""

import re
from collections.abc import Callable
from functools import partial

import torch

from audioclf.errors import ConfigError
from audioclf.models import timm_images
from audioclf.models.crnn import CRNN
from audioclf.models.efficientat import MN
from audioclf.models.network import Network
from audioclf.models.panns import Cnn6, Cnn10, Cnn14, MobileNetV1, MobileNetV2
from audioclf.models.sbcnn import SBCNN

__all__ = ["NETWORKS", "PATTERNS", "Network", "build", "check_name"]

Constructor = Callable[[int, int, float | None], Network]

NETWORKS: dict[str, Constructor] = {
    "sbcnn": SBCNN,
    "crnn": CRNN,
    "cnn6": Cnn6,
    "cnn10": Cnn10,
    "cnn14": Cnn14,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": MobileNetV2,
}


def _mn(digits: str) -> Constructor:
    return partial(MN, width=int(digits) / 10)


def _crnn(width: str) -> Constructor:
    return partial(CRNN, width=int(width))


def _textured(width: str) -> Constructor:
    return partial(CRNN, width=int(width), texture=True)


def _timm(name: str) -> Constructor:
    timm_images.check_name(name)
    return partial(timm_images.TimmNetwork, name)


PATTERNS: dict[str, Callable[[str], Constructor]] = {
    r"crnn([89]|[1-9]\d)": _crnn,
    r"crnn([89]|[1-9]\d)-texture": _textured,
    r"mn(0[1-9]|[1-9]\d)": _mn,
    r"timm:(.+)": _timm,
}
"""Families of networks, and what makes a constructor of the part in brackets."""


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is no network, or of a package that is not installed."""
    _constructor(name)


def build(name: str, n_mels: int, n_classes: int, dropout: float | None = None) -> Network:
    """A network with fresh weights.

    Args:
        name: of NETWORKS; crnn8 to crnn99 (channels of the first layer), each with -texture as well; mn01 to mn99
            (EfficientAT, width in tenths); or timm:NAME, any image network of timm.
        n_mels: bands of the pictures it is to take.
        n_classes: logits it is to give.
        dropout: share of the dense layers' inputs left out in training; None: as published for the network.

    Raises:
        ConfigError: no network of that name, or one that can't take so many mel bands.
    """
    network = _constructor(name)(n_mels, n_classes, dropout)
    # On a CPU a training step takes half the time so, and on a GPU with tensor cores no more.
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _constructor(name: str) -> Constructor:
    if name in NETWORKS:
        return NETWORKS[name]
    for pattern, constructor in PATTERNS.items():
        if match := re.fullmatch(pattern, name):
            return constructor(match[1])
    known = ", ".join(sorted(NETWORKS))
    raise ConfigError(
        f"network {name!r} is unknown; there are: {known}, crnn8 to crnn99 (channels of the first layer), each with "
        "-texture as well, mn01 to mn99 (width in tenths) and timm:NAME"
    )
