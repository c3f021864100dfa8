"""Waveform augmentation: parameters are drawn apart from being applied, so that any copy can be made again."""

import dataclasses
import json
import shutil
import subprocess
from dataclasses import dataclass

import numpy as np
import pyrubberband
import xxhash

from audioclf.errors import AugmentError, ConfigError

HEADROOM_PEAK = 0.5
"""pyrubberband goes through 16-bit files: samples are scaled to this peak before and back after, so that neither
they nor what the engine adds to them is clipped."""


@dataclass(frozen=True)
class Transform:
    """One drawn change of a waveform.

    Attributes:
        stretch: duration factor; 1.5 is one and a half times as long.
        pitch_semitones: upwards; 12 is an octave.
    """

    stretch: float = 1.0
    pitch_semitones: float = 0.0

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclass(frozen=True)
class TransformSet:
    """A named way to draw transforms: each value from its choices, or evenly from a range."""

    stretch: tuple[float, ...] = (1.0,)
    pitch_semitones: tuple[float, ...] = (0.0,)
    continuous: bool = False

    def draw(self, rng: np.random.Generator) -> Transform:
        if self.continuous:
            return Transform(
                rng.uniform(min(self.stretch), max(self.stretch)),
                rng.uniform(min(self.pitch_semitones), max(self.pitch_semitones)),
            )
        return Transform(float(rng.choice(self.stretch)), float(rng.choice(self.pitch_semitones)))


ORIGINAL = "none"
"""The transform_set of copy 0."""

# Source: Salamon & Bello 2017 (arXiv 1608.04363); their stretch is a tempo, so a duration factor is its inverse.
TRANSFORM_SETS = {
    "ts": TransformSet(stretch=tuple(1 / tempo for tempo in (0.81, 0.93, 1.07, 1.23))),
    "ps1": TransformSet(pitch_semitones=(-2.0, -1.0, 1.0, 2.0)),
    "ps2": TransformSet(pitch_semitones=(-3.5, -2.5, 2.5, 3.5)),
    "stretch-pitch": TransformSet(stretch=(0.8, 1.25), pitch_semitones=(-2.0, 2.0), continuous=True),
}


def check_transform_sets(names: tuple[str, ...]) -> None:
    """Raise ConfigError for a name that is no transform set, or where the rubberband program is missing."""
    for name in names:
        if name not in TRANSFORM_SETS:
            raise ConfigError(f"--augment {name}: unknown; there are: {', '.join(sorted(TRANSFORM_SETS))}")
    if names and shutil.which("rubberband") is None:
        raise ConfigError("--augment needs the rubberband program: apt-get install rubberband-cli")


def rng_of(seed: int, clip_id: str, segment_index: int, copy_index: int) -> np.random.Generator:
    """The random numbers of one copy, the same on every machine and in every run."""
    return np.random.default_rng(xxhash.xxh3_64_intdigest(f"{seed}/{clip_id}/{segment_index}/{copy_index}".encode()))


def apply(transform: Transform, samples: np.ndarray, sample_rate: int, clip_uri: str) -> np.ndarray:
    """Stretch and shift [n] float32 samples in one pass of Rubber Band; the length changes by `stretch`.

    Raises:
        AugmentError: the engine failed or gave nothing back.
    """
    peak = float(np.abs(samples).max(initial=0))
    if peak == 0:  # silence stays silence
        return np.zeros(round(len(samples) * transform.stretch), np.float32)
    scaled = samples * np.float32(HEADROOM_PEAK / peak)
    try:
        if transform.stretch == 1.0:
            changed = pyrubberband.pitch_shift(scaled, sample_rate, transform.pitch_semitones)
        else:
            pitch = {"--pitch": str(transform.pitch_semitones)}
            changed = pyrubberband.time_stretch(scaled, sample_rate, 1 / transform.stretch, rbargs=pitch)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise AugmentError(clip_uri, "augment", f"rubberband failed on {transform.to_json()}: {error}") from error
    changed = np.atleast_1d(changed)
    if len(changed) == 0:
        raise AugmentError(clip_uri, "augment", f"rubberband gave no samples for {transform.to_json()}")
    return changed.astype(np.float32) * np.float32(peak / HEADROOM_PEAK)
