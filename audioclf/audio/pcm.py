"""Samples kept as int16, for training that changes waveforms: the front ends that make no pictures."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from audioclf.audio.frontend import FRONT_ENDS, FrontEnd
from audioclf.errors import ConfigError, SchemaError

INT16_SCALE = 1 << 15
"""Full scale, ±1, as int16."""


@dataclass(frozen=True)
class Pcm:
    """Keeps the samples themselves: a picture of one row, whose frames are samples.

    Full scale, ±1, is ±32768; values are rounded to the nearest, without dither, and clipped beyond full scale. So
    16-bit PCM that needs no resampling or mixing of channels comes out as it went in.
    """

    name: str
    sample_rate: int
    """Hz."""
    encoding: Literal["int16"] = "int16"

    n_features: ClassVar[int] = 1
    column: ClassVar[str] = "pcm"
    dtype: ClassVar[type[np.generic]] = np.int16

    def n_frames(self, n_samples: int) -> int:
        return n_samples

    def duration_s(self, n_frames: int) -> float:
        return n_frames / self.sample_rate

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


PCM_FRONT_ENDS = {spec.name: spec for spec in (Pcm("pcm32k", 32_000), Pcm("pcm44k", 44_100))}

AnyFrontEnd = FrontEnd | Pcm
"""What a shard may be made with."""


def get_any_front_end(name: str) -> AnyFrontEnd:
    """A front end of either kind by its name.

    Raises:
        ConfigError: no front end of that name.
    """
    every = FRONT_ENDS | PCM_FRONT_ENDS
    if name not in every:
        raise ConfigError(f"front end {name!r} is unknown; there are: {', '.join(sorted(every))}")
    return every[name]


def from_dict(fields: dict[str, Any]) -> AnyFrontEnd:
    """The inverse of to_dict, for either kind.

    Raises:
        SchemaError: a front end of another version.
    """
    if "encoding" not in fields:
        return FrontEnd.from_dict(fields)
    try:
        return Pcm(**fields)
    except TypeError as error:
        raise SchemaError(f"not a front end of this version: {error}") from error


def differences(ours: AnyFrontEnd, theirs: AnyFrontEnd) -> str:
    """The fields in which two front ends differ, both sides named; empty if none."""
    if isinstance(ours, Pcm) != isinstance(theirs, Pcm):
        return " against ".join(
            f"{'waveforms' if isinstance(one, Pcm) else 'log-mel pictures'} ({one.name})" for one in (ours, theirs)
        )
    left, right = ours.to_dict(), theirs.to_dict()
    return ", ".join(f"{key} {left[key]} against {right[key]}" for key in left if left[key] != right[key])


def to_int16(samples: np.ndarray) -> np.ndarray:
    """±1 → ±32768, rounded to the nearest; what lies beyond is clipped."""
    return np.clip(np.rint(samples * np.float32(INT16_SCALE)), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)


def from_int16(pcm: np.ndarray) -> np.ndarray:
    """±32768 → ±1, float32; exactly so."""
    return pcm * np.float32(1 / INT16_SCALE)
