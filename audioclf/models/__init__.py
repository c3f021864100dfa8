"""Networks by name. Each takes log-mel pictures and gives logits; see `Network`."""

from collections.abc import Callable

import torch

from audioclf.errors import ConfigError
from audioclf.models.network import Network
from audioclf.models.sbcnn import SBCNN

__all__ = ["NETWORKS", "Network", "build", "check_name"]

NETWORKS: dict[str, Callable[[int, int, float], Network]] = {"sbcnn": SBCNN}


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is no network."""
    if name not in NETWORKS:
        raise ConfigError(f"network {name!r} is unknown; there are: {', '.join(sorted(NETWORKS))}")


def build(name: str, n_mels: int, n_classes: int, dropout: float = 0.0) -> Network:
    """A network with fresh weights.

    Raises:
        ConfigError: no network of that name, or one that can't take so many mel bands.
    """
    check_name(name)
    network = NETWORKS[name](n_mels, n_classes, dropout)
    # On a CPU a training step takes half the time so, and on a GPU with tensor cores no more.
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
