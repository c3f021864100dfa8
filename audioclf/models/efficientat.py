"""EfficientAT's mnNN: MobileNetV3-Large over log-mel pictures, its width NN tenths.

Source: F. Schmid, K. Koutini, G. Widmer, "Efficient Large-Scale Audio Tagging Via Transformer-to-CNN Knowledge
Distillation" (2023), arXiv 2211.04772; A. Howard et al., "Searching for MobileNetV3" (2019), arXiv 1905.02244.
Attributes are named as in the published weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from audioclf.models.network import Network

_Activation = Callable[..., nn.Module]

# Kernel, expanded channels, channels, whether with squeeze and excitation, activation, stride.
_BLOCKS: list[tuple[int, int, int, bool, _Activation, int]] = [
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
]
_STEM, _LAST = 16, 1280
_batch_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)


class MN(Network):
    """983,599 parameters at width 0.4 (mn04) and 527 classes. Takes any number of bands and frames.

    Args:
        n_mels: bands.
        n_classes: logits.
        dropout: before the last layer; None: 0.2.
        width: factor on the channels, rounded to multiples of 8.
    """

    head: ClassVar[str] = "classifier.5"

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None, width: float = 1.0):
        super().__init__(n_mels)
        n_in = _multiple_of_8(_STEM * width)
        layers: list[nn.Module] = [_conv(1, n_in, 3, nn.Hardswish, stride=2)]
        for kernel, expanded, channels, squeeze, activation, stride in _BLOCKS:
            n, n_out = _multiple_of_8(expanded * width), _multiple_of_8(channels * width)
            layers.append(_InvertedResidual(n_in, n, n_out, kernel, stride, squeeze, activation))
            n_in = n_out
        n_embedding, n_hidden = 6 * n_in, _multiple_of_8(_LAST * width)
        self.features = nn.Sequential(*layers, _conv(n_in, n_embedding, 1, nn.Hardswish))
        named = [
            ("2", nn.Linear(n_embedding, n_hidden)),
            ("3", nn.Hardswish()),
            ("4", nn.Dropout(0.2 if dropout is None else dropout)),
            ("5", nn.Linear(n_hidden, n_classes)),
        ]
        self.classifier = nn.Sequential(OrderedDict[str, nn.Module](named))
        self.apply(_initialise)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(self.features(self.standardise(log_mel)), 1).flatten(1)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.classifier(embedding)

    def stages(self) -> Sequence[nn.Module]:
        return *self.features, self.classifier[0]

    def dense_weights(self) -> Iterator[torch.Tensor]:
        """Those of the classifier; the squeeze of a block is no layer of its own."""
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                yield module.weight


class _InvertedResidual(nn.Module):
    """Expand, filter each channel, weigh the channels, project; and the input added where the shapes allow."""

    def __init__(
        self, n_in: int, n: int, n_out: int, kernel: int, stride: int, squeeze: bool, activation: _Activation
    ):  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        if n != n_in:
            layers.append(_conv(n_in, n, 1, activation))
        layers.append(_conv(n, n, kernel, activation, stride, groups=n))
        if squeeze:
            layers.append(_ChannelWeights(n))
        layers.append(_conv(n, n_out, 1))
        self.block = nn.Sequential(*layers)
        self._residual = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self._residual else self.block(x)


class _ChannelWeights(nn.Module):
    """Squeeze and excitation; the list of one is the published weights'."""

    def __init__(self, n: int):
        super().__init__()
        self.conc_se_layers = nn.ModuleList([_Excitation(n)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.conc_se_layers[0](F.adaptive_avg_pool2d(x, 1))


class _Excitation(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        n_squeezed = _multiple_of_8(n // 4)
        self.fc1 = nn.Linear(n, n_squeezed)
        self.fc2 = nn.Linear(n_squeezed, n)

    def forward(self, means: torch.Tensor) -> torch.Tensor:
        """[B, C, 1, 1]: as convolutions, since ONNX Runtime would reorder the whole picture around dense layers."""
        return torch.sigmoid(_by_convolution(self.fc2, torch.relu(_by_convolution(self.fc1, means))))


def _by_convolution(dense: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, dense.weight[:, :, None, None], dense.bias)


def _conv(
    n_in: int, n_out: int, kernel: int, activation: _Activation | None = None, stride: int = 1, groups: int = 1
) -> nn.Sequential:  # fmt: skip
    conv = nn.Conv2d(n_in, n_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    layers = [conv, _batch_norm(n_out)]
    return nn.Sequential(*layers, activation(inplace=True)) if activation else nn.Sequential(*layers)


def _multiple_of_8(channels: float) -> int:
    """The nearest, but never below 90 % of what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0, 0.01)
        nn.init.zeros_(module.bias)
