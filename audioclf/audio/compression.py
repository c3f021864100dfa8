"""Dynamic range compression: loud and soft are brought nearer to each other."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Compressor:
    """A compander as sox defines it.

    Attributes:
        attack_s, decay_s: time constants with which the level that is heeded follows the samples up and down.
        curve_db: (level in, level out) pairs, joined by straight lines.
        gain_db: added after.
        look_ahead_s: the level heeded is that of so much later.
    """

    attack_s: float
    decay_s: float
    curve_db: tuple[tuple[float, float], ...]
    gain_db: float = 0.0
    look_ahead_s: float = 0.0

    def apply(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """[n] float32 → [n] float32.

        Source: the `compand` effect of sox, which starts from a level of 0 dB.
        """
        level_db = 20 * np.log10(np.maximum(self._levels(samples, sample_rate), 1e-10))
        level_in, level_out = np.array(self.curve_db).T
        gain_db = np.interp(level_db, level_in, level_out - level_in) + self.gain_db
        ahead = min(round(self.look_ahead_s * sample_rate), len(samples) - 1)
        if ahead > 0:
            gain_db = np.concatenate([gain_db[ahead:], np.full(ahead, gain_db[-1])])
        return (samples * 10 ** (gain_db / 20)).astype(np.float32)

    def _levels(self, samples: np.ndarray, sample_rate: int) -> np.ndarray:
        """[n] float64: |samples| followed with the two time constants, from 1 on."""
        rise, fall = (1 - math.exp(-1 / (sample_rate * seconds)) for seconds in (self.attack_s, self.decay_s))
        level, levels = 1.0, np.empty(len(samples))
        for i, value in enumerate(np.abs(samples).tolist()):  # each step needs the one before
            level += (value - level) * (rise if value > level else fall)
            levels[i] = level
        return levels


def _standard(*curve_db: tuple[float, float]) -> Compressor:
    return Compressor(0.1, 0.3, ((-90, -90), *curve_db, (-31, -31), (-21, -21), (0, -20)), look_ahead_s=0.1)


# Source: Salamon & Bello 2017 (arXiv 1608.04363) name four; their numbers are those of McFee, Humphrey & Bello,
# "A software framework for musical data augmentation" (ISMIR 2015), three of them after Dolby E.
COMPRESSORS = {
    "music-standard": _standard((-70, -58), (-55, -43)),
    "film-standard": _standard((-70, -64), (-43, -37)),
    "speech": _standard((-70, -55), (-50, -35)),
    "radio": Compressor(0.01, 1.0, ((-90, -90), (-70, -70), (-60, -20), (0, 0)), gain_db=-5.0),
}
