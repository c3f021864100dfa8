"""Statistics of how bands vary: what tells rain from fire, whoever recorded it."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WINDOW, HOP = 128, 16
"""Frames of which a modulation spectrum is taken (2.56 s of logmel32k), and from one to the next."""
EDGES = (1, 3, 6, 8, 11, 16, 21, 31, 41, 52, 65)
"""Of ten bands of modulation, in bins of that spectrum: 0.4 to 25 Hz with logmel32k."""
N_GROUPS = 16
"""Of neighbouring bands."""
PAIRS = np.ravel_multi_index(np.triu_indices(N_GROUPS, 1), (N_GROUPS, N_GROUPS)).tolist()
"""Of groups, each once: places in their flattened correlations. No buffer: running averages of weights are taken of
those, and would make other integers of them."""
LEAST = 0.05
"""Deviation of a band, in those of the training clips, below which it counts as constant."""
MOST = 5.0
"""Of a standardised statistic: a sound unlike all others must not decide by one of a thousand."""


class Texture(nn.Module):
    """[B, M, T] standardised pictures, of any length, to [B, n_features] standardised statistics, and these to logits.

    Over the frames of each band, less digital silence around them: deviation, skewness and kurtosis, and the power of
    its modulation in ten bands of modulation frequency. Over groups of bands: how far the strongest modulation
    frequency stands out in each of these ten, and the correlation of every two groups. Means are left out: they say
    more of the recorder than of the sound.

    The choice of statistics follows J. McDermott & E. Simoncelli, "Sound Texture Perception via Statistics of the
    Auditory Periphery" (2011), Neuron 71.

    Args:
        n_bands: of the pictures, N_GROUPS or more.
        n_classes: logits.

    Attributes:
        n_features: statistics of a picture.
        mean, std: [n_features] of the training clips.
        weight, bias: [n_classes, n_features] and [n_classes]: of the vote; see `texture_vote.fit`. No gradient moves
            them.
    """

    kernels: torch.Tensor
    groups: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, n_bands: int, n_classes: int):
        super().__init__()
        self.register_buffer("kernels", _fourier_kernels(), persistent=False)
        self.register_buffer("groups", _grouping(n_bands), persistent=False)
        n_modulations = len(EDGES) - 1
        self.n_features = n_bands * (3 + n_modulations) + N_GROUPS * n_modulations + len(PAIRS)
        self.register_buffer("mean", torch.zeros(self.n_features))
        self.register_buffer("std", torch.ones(self.n_features))
        self.forget(n_classes)

    def forget(self, n_classes: int) -> None:
        """Vote for none of so many classes."""
        self.register_buffer("weight", self.mean.new_zeros(n_classes, self.n_features))
        self.register_buffer("bias", self.mean.new_zeros(n_classes))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        with torch.autocast(pictures.device.type, enabled=False):  # fourth powers want float32
            return self.standardise(self.statistics(pictures.float()))

    def standardise(self, statistics: torch.Tensor) -> torch.Tensor:
        """[B, n_features], each as deviations from its mean."""
        return ((statistics - self.mean) / self.std).clamp(-MOST, MOST)

    def vote(self, standardised: torch.Tensor) -> torch.Tensor:
        """[B, n_features] to logits [B, n_classes]."""
        return F.linear(standardised, self.weight, self.bias)

    def statistics(self, pictures: torch.Tensor) -> torch.Tensor:
        """[B, n_features] before they are standardised."""
        weights = _sounding(pictures)
        varying = pictures - (weights * pictures).mean(2, keepdim=True)
        squares = varying.square()
        deviation = (weights * squares).mean(2).sqrt() + LEAST
        skewness = (weights * squares * varying).mean(2) / deviation**3
        kurtosis = (weights * squares.square()).mean(2) / deviation**4
        varying = weights.sqrt() * varying
        power, peak = self._modulation(varying)
        grouped = self.groups @ varying
        grouped = grouped / (grouped.square().mean(2, keepdim=True).sqrt() + LEAST)
        correlation = grouped @ grouped.transpose(1, 2) / varying.shape[2]
        return torch.cat(
            [
                deviation.log(),
                skewness,
                (kurtosis + 0.1).log(),
                power.flatten(1),
                (self.groups @ (peak - power)).flatten(1),
                correlation.flatten(1)[:, PAIRS],
            ],
            dim=1,
        )

    def _modulation(self, varying: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logarithm of the mean and of the greatest power in each band of modulation, [B, M, bands] each.

        By Welch's method; the ends are filled with zeros.
        """
        kernels = self.kernels[:, None, None]  # not stored so: channels_last would make them ten times as slow
        spectra = F.conv2d(varying[:, None], kernels, stride=(1, HOP), padding=(0, WINDOW // 2))
        cosines, sines = spectra.chunk(2, dim=1)
        power = (cosines.square() + sines.square()).mean(3)  # [B, bins, M]
        bands = [power[:, first - 1 : end - 1] for first, end in itertools.pairwise(EDGES)]
        means = torch.stack([band.mean(1) for band in bands], dim=2)
        peaks = torch.stack([band.amax(1) for band in bands], dim=2)
        return (means + 1e-4).log(), (peaks + 1e-4).log()


def _sounding(pictures: torch.Tensor) -> torch.Tensor:
    """[B, 1, T] weights of frames, 1 on average: 0 before the first and after the last that is not digital silence,
    where all bands are at their lowest at once.

    So a call in a file filled up with zeros has the statistics of the call.
    """
    lowest = pictures.amin(dim=2, keepdim=True)
    heard = ((pictures - lowest).amax(dim=1, keepdim=True) > 1e-3).to(pictures.dtype)
    so_far = heard.cumsum(2)
    left = so_far[:, :, -1:] - so_far + heard
    within = ((so_far > 0) & (left > 0)).to(pictures.dtype)
    return within * pictures.shape[2] / within.sum(dim=2, keepdim=True).clamp(min=1)


def _fourier_kernels() -> torch.Tensor:
    """[2 · bins, WINDOW]: Hann's window times cosines, then sines, of bins 1 to WINDOW / 2.

    Scaled so that white noise of variance 1 has a power of 1 in each bin.
    """
    phases = 2 * math.pi * torch.arange(1, WINDOW // 2 + 1)[:, None] * torch.arange(WINDOW) / WINDOW
    window = torch.hann_window(WINDOW)
    return torch.cat([phases.cos(), phases.sin()]) * window / window.square().sum().sqrt()


def _grouping(n_bands: int) -> torch.Tensor:
    """[N_GROUPS, n_bands]: the mean over each group of neighbouring bands."""
    groups = torch.zeros(N_GROUPS, n_bands)
    for i, bands in enumerate(np.array_split(np.arange(n_bands), N_GROUPS)):
        groups[i, bands] = 1 / len(bands)
    return groups
