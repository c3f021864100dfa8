"""Samples → segments of one length."""

import math

import numpy as np


def segment_samples(segment_s: float, sample_rate: int) -> int:
    """Samples in a segment; a clip whose duration is exactly segment_s fits whole."""
    return max(1, math.ceil(segment_s * sample_rate - 1e-6))


def segment_starts(n_samples: int, length: int, hop: int, min_tail: float) -> list[int]:
    """Where segments begin.

    There is one segment at least. A last part shorter than `length` becomes a segment of its own, padded, if it
    reaches more than `min_tail` (a fraction of `length`) beyond the segment before it; otherwise it is left out.
    """
    starts = [0]
    while n_samples - (starts[-1] + length) > min_tail * length and starts[-1] + hop < n_samples:
        starts.append(starts[-1] + hop)
    return starts


def cut(samples: np.ndarray, start: int, length: int) -> tuple[np.ndarray, int]:
    """`length` samples from `start`, zero-padded at the end, and how many of them are real."""
    part = samples[start : start + length]
    if len(part) == length:
        return part, length
    padded = np.zeros(length, samples.dtype)
    padded[: len(part)] = part
    return padded, len(part)
