"""Which weights learn, how fast, and what becomes of them. Plain torch, no Ray."""

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from audioclf.config import Training
from audioclf.models import Network

ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
"""As in Smith and Topin, "Super-convergence" (2018), arXiv 1708.07120, and in torch's OneCycleLR."""


def learning_rate(training: Training, epoch: float) -> float:
    """The learning rate of the last layer after so many epochs, of which the last may be a part.

    With the head first, the schedule runs twice: for the head alone, then for all layers.

    Source: Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution" (2022),
    arXiv 2202.10054.
    """
    highest, epochs = training.learning_rate, float(training.epochs)
    if training.freeze == "head-first":
        alone = training.unfreeze_epochs
        epoch, epochs = (epoch, alone) if epoch < alone else (epoch - alone, epochs - alone)
    if training.schedule == "one-cycle":
        progress = epoch / epochs
        if progress < ONE_CYCLE_RISE:
            start = highest * ONE_CYCLE_START
            return highest - (highest - start) * _half_cosine(progress / ONE_CYCLE_RISE)
        return highest * _half_cosine((progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE))
    if epoch < training.warmup_epochs:
        return highest * epoch / training.warmup_epochs
    if training.schedule == "cosine":
        left = epochs - training.warmup_epochs
        return highest * _half_cosine((epoch - training.warmup_epochs) / left)
    return highest


def _half_cosine(progress: float) -> float:
    """From 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def layers(network: Network) -> list[nn.Module]:
    """Its stages and its head, from the input on: what learning rates and freezing go by."""
    return [*network.stages(), network.get_submodule(network.head)]


def n_frozen(training: Training, n_layers: int, epoch: int) -> int:
    """How many layers, from the input on, keep their weights in an epoch counted from 0; the head always learns."""
    steps = int(epoch / training.unfreeze_epochs)
    learning = {"none": n_layers, "backbone": 1, "gradual": 1 + steps, "head-first": n_layers if steps else 1}
    return max(0, n_layers - learning[training.freeze])


def freeze(all_layers: Sequence[nn.Module], n: int) -> None:
    """Let the first n layers keep their weights, and their batch statistics, and the others learn."""
    for i, layer in enumerate(all_layers):
        layer.requires_grad_(i >= n)
        layer.train(i >= n)


def optimizer(network: Network, training: Training) -> torch.optim.Optimizer:
    """One with a group of parameters for each layer, and in it one apart for what does not decay.

    Each group has its share of the learning rate as `scale`; see `set_learning_rate`.
    """
    groups = []
    all_layers = layers(network)
    for i, layer in enumerate(all_layers):
        scale = training.layer_decay ** (len(all_layers) - 1 - i)
        weights = [parameter for parameter in layer.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in layer.parameters() if parameter.ndim <= 1]
        for parameters, decay in ((weights, training.weight_decay), (others, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "scale": scale})
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=training.learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def averaged(network: Network, decay: float) -> AveragedModel:
    """A running average of a network's weights and batch statistics, to be updated after each step."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def mixed(network: Network, start: Mapping[str, torch.Tensor], share: float) -> Network:
    """A copy of a network, its weights and batch statistics mixed with those of its state at the start.

    Args:
        network: stays as it is.
        start: an earlier state of it.
        share: of the start.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models" (2022), arXiv 2109.01903.
    """
    weights = {
        name: torch.lerp(value, start[name], share) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    network = copy.deepcopy(network)
    network.load_state_dict(weights)
    return network
