"""Samples → log-mel pictures, by a named and frozen specification."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from audioclf.errors import ConfigError, SchemaError


@dataclass(frozen=True)
class FrontEnd:
    """A log-mel front end. It travels with every shard and checkpoint; two that differ do not mix.

    Frames are centred: frame t is the n_fft samples around t·hop_length, zeros beyond the ends. Power spectra
    pass Slaney's triangular filters (unit area), then 10·log10(max(x, floor)).
    """

    name: str
    sample_rate: int
    n_fft: int
    win_length: int
    hop_length: int
    n_mels: int
    f_min_hz: float
    f_max_hz: float
    floor: float = 1e-10

    @property
    def floor_db(self) -> float:
        """What digital silence becomes."""
        return float(10 * np.log10(self.floor))

    def n_frames(self, n_samples: int) -> int:
        """Frames of a segment of n_samples."""
        return 1 + n_samples // self.hop_length

    def duration_s(self, n_frames: int) -> float:
        """The time between the centres of the first and the last frame."""
        return (n_frames - 1) * self.hop_length / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "FrontEnd":
        """Raises SchemaError where the fields are not those of a front end."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise SchemaError(f"not a front end of this version: {error}") from error

    def differences(self, other: "FrontEnd") -> str:
        """The fields in which two front ends differ, both sides named; empty if none."""
        ours, theirs = self.to_dict(), other.to_dict()
        return ", ".join(f"{key} {ours[key]} against {theirs[key]}" for key in ours if ours[key] != theirs[key])


FRONT_ENDS = {
    spec.name: spec
    for spec in (
        FrontEnd(
            name="logmel44k",
            sample_rate=44_100,
            n_fft=1024,
            win_length=1024,
            hop_length=1024,
            n_mels=128,
            f_min_hz=0.0,
            f_max_hz=22_050.0,
        ),
    )
}


def get_front_end(name: str) -> FrontEnd:
    """A front end by its name.

    Raises:
        ConfigError: no front end of that name.
    """
    if name not in FRONT_ENDS:
        raise ConfigError(f"front end {name!r} is unknown; there are: {', '.join(sorted(FRONT_ENDS))}")
    return FRONT_ENDS[name]


def log_mel(samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """The log-mel picture of a segment.

    Args:
        samples: [n] float32 at spec.sample_rate.
        spec: the front end.

    Returns:
        [n_mels, n_frames] float32, dB. The same as librosa.feature.melspectrogram(pad_mode="constant") and
        power_to_db(top_db=None).
    """
    window, filters = _window_and_filters(spec)
    padded = np.pad(samples, spec.n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, spec.n_fft)[:: spec.hop_length]
    spectra = np.asarray(scipy.fft.rfft(frames * window, axis=1))
    power = np.square(np.real(spectra)) + np.square(np.imag(spectra))
    mel = filters @ power.T
    return 10 * np.log10(np.maximum(mel, spec.floor, out=mel), out=mel)


@functools.cache
def _window_and_filters(spec: FrontEnd) -> tuple[np.ndarray, np.ndarray]:
    phase = 2 * np.pi * np.arange(spec.win_length) / spec.win_length
    window = (0.5 - 0.5 * np.cos(phase)).astype(np.float32)  # Hann, periodic
    before = (spec.n_fft - spec.win_length) // 2
    window = np.pad(window, (before, spec.n_fft - spec.win_length - before))
    return window, mel_filters(spec)


def mel_filters(spec: FrontEnd) -> np.ndarray:
    """[n_mels, 1 + n_fft/2] float32: triangles of unit area on Slaney's mel scale.

    Written out because importing librosa costs each worker seconds. Source: M. Slaney, Auditory Toolbox (1998).
    """
    bins_hz = np.linspace(0, spec.sample_rate / 2, 1 + spec.n_fft // 2)
    lowest, highest = _hz_to_mel(np.array([spec.f_min_hz, spec.f_max_hz]))
    edges_hz = _mel_to_hz(np.linspace(lowest, highest, spec.n_mels + 2))
    left, centre, right = (edges_hz[i : i + spec.n_mels, None] for i in range(3))
    triangles = np.minimum((bins_hz - left) / (centre - left), (right - bins_hz) / (right - centre))
    return (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)


# Slaney's scale: linear up to 1000 Hz (mel 15), then 27 mels for each factor of 6.4.
_LINEAR_HZ = 200 / 3
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    above = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _LINEAR_HZ, above)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    return np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ, above)
