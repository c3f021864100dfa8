"""PANNs: convolutional networks trained on AudioSet, over 64 log-mel bands at 100 frames a second.

Source: Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition" (2020),
arXiv 1912.10211. Attributes are named as in the published weights. The masks and the mixup of their training are flags
of any training here, not part of the networks.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from audioclf.errors import ConfigError
from audioclf.models.network import Network

BLOCK_DROPOUT = 0.2

# Channels, stride.
_V1_LAYERS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
# Expansion, channels, repeats, stride of the first.
_V2_LAYERS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 2), (6, 160, 3, 1), (6, 320, 1, 1)]


class Panns(Network):
    """What they share: normalisation of each band, the pooling over frequency and time, and the two dense layers."""

    min_frames: ClassVar[int] = 32  # the poolings make one of them
    head: ClassVar[str] = "fc_audioset"

    def __init__(self, name: str, n_mels: int):
        super().__init__(n_mels)
        if n_mels < self.min_frames:
            raise ConfigError(f"{name} takes {self.min_frames} mel bands or more, the front end gives {n_mels}")
        self.bn0 = nn.BatchNorm2d(n_mels)

    def features_of(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, 1, T, M] to [B, E, T', M']."""
        raise NotImplementedError

    def _add_dense(self, n_features: int, n_embedding: int, n_classes: int, dropout: float) -> None:
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(n_features, n_embedding)
        self.fc_audioset = nn.Linear(n_embedding, n_classes)
        self.apply(_xavier)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        bands = self.standardise(log_mel).transpose(1, 2)  # [B, M, 1, T]
        x = self.features_of(self.bn0(bands).permute(0, 2, 3, 1))
        x = x.mean(3)
        x = x.amax(2) + x.mean(2)
        return F.relu(self.fc1(self.dropout(x)))

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.fc_audioset(embedding)


class _Block(nn.Module):
    """One or two convolutions of a kernel, each with batch norm and ReLU; then the mean of 2 × 2, or no pooling."""

    def __init__(self, n_in: int, n_out: int, kernel: int, two: bool, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        if two:
            self.conv2 = nn.Conv2d(n_out, n_out, kernel, padding=kernel // 2, bias=False)
            self.bn2 = nn.BatchNorm2d(n_out)
        self._two, self._pool = two, pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        if self._two:
            x = F.relu_(self.bn2(self.conv2(x)))
        if self._pool > 1:
            x = F.avg_pool2d(x, self._pool)
        return F.dropout(x, BLOCK_DROPOUT, self.training)


class _Cnn(Panns):
    """Blocks called conv_block1, conv_block2, …"""

    channels: ClassVar[tuple[int, ...]] = (64, 128, 256, 512)
    kernel: ClassVar[int] = 3
    two: ClassVar[bool] = True

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__(type(self).__name__.lower(), n_mels)
        for i, (n_in, n_out) in enumerate(zip((1, *self.channels), self.channels, strict=False), start=1):
            # The sixth block does not pool.
            self.add_module(f"conv_block{i}", _Block(n_in, n_out, self.kernel, self.two, 2 if i < 6 else 1))
        self._add_dense(self.channels[-1], self.channels[-1], n_classes, 0.5 if dropout is None else dropout)

    def _blocks(self) -> list[nn.Module]:
        return [self.get_submodule(f"conv_block{i}") for i in range(1, len(self.channels) + 1)]

    def features_of(self, pictures: torch.Tensor) -> torch.Tensor:
        for block in self._blocks():
            pictures = block(pictures)
        return pictures

    def stages(self) -> Sequence[nn.Module]:
        return self.bn0, *self._blocks(), self.fc1


class Cnn6(_Cnn):
    """4,837,455 parameters at 527 classes and 64 bands: four convolutions of 5 × 5."""

    min_frames: ClassVar[int] = 16
    kernel: ClassVar[int] = 5
    two: ClassVar[bool] = False


class Cnn10(_Cnn):
    """5,219,279 parameters at 527 classes and 64 bands: eight convolutions of 3 × 3."""

    min_frames: ClassVar[int] = 16


class Cnn14(_Cnn):
    """80,753,615 parameters at 527 classes and 64 bands: twelve convolutions of 3 × 3."""

    channels: ClassVar[tuple[int, ...]] = (64, 128, 256, 512, 1024, 2048)


class MobileNetV1(Panns):
    """4,796,303 parameters at 527 classes and 64 bands: depthwise separable convolutions.

    Source: A. Howard et al., "MobileNets" (2017), arXiv 1704.04861; instead of a stride, means of 2 × 2.
    """

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__("mobilenetv1", n_mels)
        layers, n_in = [_full(1, 32, 2, nn.ReLU)], 32
        for n_out, stride in _V1_LAYERS:
            depthwise = _full(n_in, n_in, stride, nn.ReLU, groups=n_in)
            layers.append(nn.Sequential(*depthwise, *_pointwise(n_in, n_out, nn.ReLU)))
            n_in = n_out
        self.features = nn.Sequential(*layers)
        self._add_dense(1024, 1024, n_classes, 0.5 if dropout is None else dropout)

    def features_of(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.features(pictures)

    def stages(self) -> Sequence[nn.Module]:
        return self.bn0, *self.features, self.fc1


class MobileNetV2(Panns):
    """4,075,343 parameters at 527 classes and 64 bands: inverted residuals.

    Source: M. Sandler et al., "MobileNetV2" (2018), arXiv 1801.04381; instead of a stride, means of 2 × 2.
    """

    def __init__(self, n_mels: int, n_classes: int, dropout: float | None = None):
        super().__init__("mobilenetv2", n_mels)
        layers: list[nn.Module] = [_full(1, 32, 2, nn.ReLU6)]
        n_in = 32
        for expansion, n_out, repeats, stride in _V2_LAYERS:
            for i in range(repeats):
                layers.append(_InvertedResidual(n_in, n_out, stride if i == 0 else 1, expansion))
                n_in = n_out
        self.features = nn.Sequential(*layers, nn.Sequential(*_pointwise(n_in, 1280, nn.ReLU6)))
        self._add_dense(1280, 1024, n_classes, dropout or 0.0)  # published without any

    def features_of(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.features(pictures)

    def stages(self) -> Sequence[nn.Module]:
        return self.bn0, *self.features, self.fc1


class _InvertedResidual(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int):
        super().__init__()
        n = n_in * expansion
        expand = _pointwise(n_in, n, nn.ReLU6) if expansion > 1 else []
        self.conv = nn.Sequential(*expand, *_full(n, n, stride, nn.ReLU6, groups=n), *_pointwise(n, n_out))
        self._residual = stride == 1 and n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self._residual else self.conv(x)


def _full(n_in: int, n_out: int, stride: int, activation: Callable[..., nn.Module], groups: int = 1) -> nn.Sequential:
    """A convolution of 3 × 3 whose stride is a mean over so many values each way."""
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.AvgPool2d(stride), nn.BatchNorm2d(n_out), activation(inplace=True))


def _pointwise(n_in: int, n_out: int, activation: Callable[..., nn.Module] | None = None) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(n_in, n_out, 1, bias=False), nn.BatchNorm2d(n_out)]
    return [*layers, activation(inplace=True)] if activation else layers


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
