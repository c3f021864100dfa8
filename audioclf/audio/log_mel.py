"""Samples → log-mel pictures, as a front end says."""

import functools
import math

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from audioclf.audio.frontend import FrontEnd, mirrored
from audioclf.audio.mel_spectra import LANES, Tables, mel_spectra


def log_mel(samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """The picture of a segment.

    Args:
        samples: [n] float32 at spec.sample_rate.
        spec: the front end.

    Returns:
        [spec.n_features, spec.n_frames(n)] float32. With the defaults: dB, the same as
        librosa.feature.melspectrogram(pad_mode="constant") and power_to_db(top_db=None).
    """
    n_frames = spec.n_frames(len(samples))
    padded = _padded(samples, spec, n_frames)
    mel, unsure = _mel_spectra(padded, spec.hop_length, n_frames, spec, np.float32)
    wide = np.flatnonzero(unsure)
    if len(wide):
        starts = np.resize(wide, _in_lanes(len(wide))) * spec.hop_length
        frames = sliding_window_view(padded, len(_tables(spec, np.float64).window))[starts]
        mel[:, wide], _ = _mel_spectra(frames.ravel(), frames.shape[1], len(wide), spec, np.float64)
    return _compressed(mel, spec)


_FLOAT32_RANGE_DB = 105
"""A filter so far below its frame's strongest bin is right to 0.03 dB after a Fourier transform in float32."""


@functools.cache
def _tables(spec: FrontEnd, dtype: type[np.floating]) -> Tables:
    period = spec.win_length if spec.periodic_window else spec.win_length - 1
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.win_length) / period)
    return Tables.of(hann, spec.filters(), 10 ** (-_FLOAT32_RANGE_DB / 20 * spec.power), dtype)


def _mel_spectra(
    samples: np.ndarray, hop: int, n_frames: int, spec: FrontEnd, dtype: type[np.floating]
) -> tuple[np.ndarray, np.ndarray]:
    """[n_mels, n_frames] float32, and of each frame whether dtype is not enough for it."""
    mel, unsure = np.empty((spec.n_mels, _in_lanes(n_frames)), np.float32), np.empty(_in_lanes(n_frames), np.bool_)
    floor = dtype(max(spec.floor, spec.log_offset))
    mel_spectra(samples, hop, spec.power == 1, floor, _tables(spec, dtype), mel, unsure)
    return mel[:, :n_frames], unsure[:n_frames]


def _in_lanes(n_frames: int) -> int:
    """So many are computed."""
    return -(-n_frames // LANES) * LANES


def _padded(samples: np.ndarray, spec: FrontEnd, n_frames: int) -> np.ndarray:
    """The samples after pre-emphasis, such that frame t begins at t·hop_length, and as many as are computed."""
    kept = samples[1:] if spec.pre_emphasis else samples
    n, before, window = len(kept), spec.before, _tables(spec, np.float32).window
    padded = np.empty(max(before + n, (_in_lanes(n_frames) - 1) * spec.hop_length + len(window)), np.float32)
    padded[:before] = 0
    padded[before + n :] = 0
    inside = padded[before : before + n]
    if spec.pre_emphasis:
        np.multiply(samples[:-1], -spec.pre_emphasis, out=inside)
        inside += kept
    else:
        inside[:] = kept
    if spec.center and spec.pad_mode == "reflect" and n:
        stop = (n_frames - 1) * spec.hop_length + spec.win_length - before
        beyond = np.r_[-before:0, n : max(n, stop)]
        padded[before + beyond] = inside[mirrored(beyond, n)]
    return padded


def _compressed(mel: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """The steps from the logarithm on."""
    mel = np.maximum(mel, spec.floor)
    if spec.log_offset:
        mel += spec.log_offset
    np.log(mel, out=mel)  # vectorised on every processor, unlike log10
    if spec.log == "db":
        mel *= 10 / math.log(10)
    if spec.top_db is not None:
        np.maximum(mel, mel.max() - spec.top_db, out=mel)
    if spec.n_mfcc:
        mel = np.asarray(scipy.fft.dct(mel, axis=0, norm="ortho"))[: spec.n_mfcc]
    if (spec.mean, spec.std) != (0, 1):
        mel -= spec.mean
        mel /= spec.std
    return mel
