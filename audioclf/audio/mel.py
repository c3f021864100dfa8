"""Mel filters on either published scale."""

from typing import Literal

import numpy as np

MelScale = Literal["slaney", "htk"]

# Slaney's scale: linear up to 1000 Hz (mel 15), then 27 mels for each factor of 6.4.
_LINEAR_HZ = 200 / 3
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray, scale: MelScale) -> np.ndarray:
    """Hz → mel. HTK's 2595·log10 and the 1127·ln of Kaldi and TensorFlow are one scale."""
    if scale == "htk":
        return 2595 * np.log10(1 + hz / 700)
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def mel_to_hz(mel: np.ndarray, scale: MelScale) -> np.ndarray:
    """Mel → Hz: the inverse of hz_to_mel."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    f_min_hz: float,
    f_max_hz: float,
    scale: MelScale = "slaney",
    norm: Literal["slaney", "none"] = "slaney",
    triangles: Literal["hz", "mel"] = "hz",
) -> np.ndarray:
    """Triangles between points that lie evenly on a mel scale.

    Written out because importing librosa costs each worker seconds.

    Args:
        sample_rate: Hz.
        n_fft: samples in a Fourier transform.
        n_mels: filters.
        f_min_hz: where the first triangle begins.
        f_max_hz: where the last one ends.
        scale: the mel scale.
        norm: slaney: each triangle has unit area (over Hz); none: its height is 1.
        triangles: their sides are straight lines over Hz (Slaney, librosa) or over mel (Kaldi, TensorFlow).

    Returns:
        [n_mels, 1 + n_fft/2] float32.

    Source: M. Slaney, Auditory Toolbox (1998); S. Young et al., The HTK Book (2006), section 5.6.
    """
    bins_hz = np.linspace(0, sample_rate / 2, 1 + n_fft // 2)
    lowest, highest = hz_to_mel(np.array([f_min_hz, f_max_hz]), scale)
    corners_mel = np.linspace(lowest, highest, n_mels + 2)
    corners_hz = mel_to_hz(corners_mel, scale)
    bins, corners = (bins_hz, corners_hz) if triangles == "hz" else (hz_to_mel(bins_hz, scale), corners_mel)
    left, centre, right = (corners[i : i + n_mels, None] for i in range(3))
    filters = np.maximum(np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)), 0)
    if norm == "slaney":
        filters *= 2 / (corners_hz[2:] - corners_hz[:-2])[:, None]
    return filters.astype(np.float32)
