"""What makes log-mel pictures of samples: named and frozen specifications."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from audioclf.audio.mel import MelScale, mel_filters
from audioclf.errors import ConfigError, SchemaError


@dataclass(frozen=True)
class FrontEnd:
    """From samples to a picture. It travels with every shard and checkpoint; two that differ do not mix.

    In this order: pre-emphasis → frames × Hann window, zeros up to n_fft → Fourier transform → |X|^power → mel filters
    → logarithm of max(x, floor) + log_offset → at most top_db below the loudest → cosine transform →
    (x − mean) / std. A field at its default leaves its step out.
    """

    name: str
    sample_rate: int
    """Hz."""
    n_fft: int
    """Samples in a Fourier transform; even."""
    win_length: int
    """Samples in a window."""
    hop_length: int
    """Samples from one frame to the next."""
    n_mels: int
    """Mel filters."""
    f_min_hz: float
    """Where the first filter begins."""
    f_max_hz: float
    """Where the last filter ends."""
    floor: float = 1e-10
    periodic_window: bool = True
    """False: symmetric, both ends 0."""
    center: bool = True
    """True: frame t is centred on sample t·hop_length; False: it begins there, and lies within the segment."""
    pad_mode: Literal["constant", "reflect"] = "constant"
    """What centred frames find beyond the ends: zeros, or the segment mirrored at its first and last sample."""
    pre_emphasis: float = 0.0
    """c of x[t] − c·x[t−1]; takes one sample."""
    power: float = 2.0
    """2: power spectrum; 1: magnitude."""
    mel_scale: MelScale = "slaney"
    mel_norm: Literal["slaney", "none"] = "slaney"
    """Filters of unit area, or of height 1."""
    mel_triangles: Literal["hz", "mel"] = "hz"
    """Filters' sides are straight over Hz, or over mel as in Kaldi and TensorFlow."""
    log: Literal["db", "ln"] = "db"
    """10·log10(x), or ln(x)."""
    log_offset: float = 0.0
    top_db: float | None = None
    """Values further below the picture's highest are raised to that bound; None: no bound."""
    mean: float = 0.0
    std: float = 1.0
    n_mfcc: int = 0
    """Coefficients kept of an orthonormal DCT-II over the bands; 0: no DCT."""

    column: ClassVar[str] = "log_mel"
    """Of a shard."""
    dtype: ClassVar[type[np.generic]] = np.float16
    """Of the values there."""

    @property
    def n_features(self) -> int:
        """Rows of the picture."""
        return self.n_mfcc or self.n_mels

    def n_frames(self, n_samples: int) -> int:
        """Frames of a segment of n_samples; one that is shorter than a window is filled up to it with zeros."""
        left = n_samples - self._taken
        return max(1, 1 + (left if self.center else left - self.win_length) // self.hop_length)

    def n_samples(self, n_frames: int) -> int:
        """Of the shortest segment with so many frames; centred: from the first centre to the last."""
        return (n_frames - 1) * self.hop_length + (0 if self.center else self.win_length) + self._taken

    def duration_s(self, n_frames: int) -> float:
        """Of the shortest segment with so many frames."""
        return self.n_samples(n_frames) / self.sample_rate

    @property
    def before(self) -> int:
        """Samples of frame 0 that lie before the segment."""
        # A centred window lies amid n_fft samples; where the transform finds it there only turns phases.
        return self.n_fft // 2 - (self.n_fft - self.win_length) // 2 if self.center else 0

    @property
    def _taken(self) -> int:
        return 1 if self.pre_emphasis else 0

    def filters(self) -> np.ndarray:
        """Its mel filters, [n_mels, 1 + n_fft/2] float32."""
        return mel_filters(
            self.sample_rate, self.n_fft, self.n_mels, self.f_min_hz, self.f_max_hz,
            self.mel_scale, self.mel_norm, self.mel_triangles,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "FrontEnd":
        """Fields that are not there have their defaults. Raises SchemaError where others are not a front end's."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise SchemaError(f"not a front end of this version: {error}") from error


_LOGMEL44K = FrontEnd(
    "logmel44k", sample_rate=44_100, n_fft=1024, win_length=1024, hop_length=1024,
    n_mels=128, f_min_hz=0.0, f_max_hz=22_050.0,
)  # fmt: skip

# fmt: off
FRONT_ENDS = {
    spec.name: spec
    for spec in (
        _LOGMEL44K,
        dataclasses.replace(_LOGMEL44K, name="mfcc44k", n_mfcc=20),
        # Kong et al., PANNs (2020): Cnn14 and its siblings, and Cnn14_16k.
        FrontEnd(
            "panns32k", sample_rate=32_000, n_fft=1024, win_length=1024, hop_length=320,
            n_mels=64, f_min_hz=50.0, f_max_hz=14_000.0, pad_mode="reflect",
        ),
        FrontEnd(
            "panns16k", sample_rate=16_000, n_fft=512, win_length=512, hop_length=160,
            n_mels=64, f_min_hz=50.0, f_max_hz=8_000.0, pad_mode="reflect",
        ),
        # Schmid et al., EfficientAT (2023), as it evaluates: mel filters as Kaldi's.
        FrontEnd(
            "efficientat32k", sample_rate=32_000, n_fft=1024, win_length=800, hop_length=320,
            n_mels=128, f_min_hz=0.0, f_max_hz=15_000.0, pre_emphasis=0.97, periodic_window=False, pad_mode="reflect",
            mel_scale="htk", mel_norm="none", mel_triangles="mel",
            log="ln", floor=0.0, log_offset=1e-5, mean=-4.5, std=5.0,
        ),
        # Plakal and Ellis, YAMNet (2019): mel filters as TensorFlow's, of a magnitude spectrum.
        FrontEnd(
            "yamnet16k", sample_rate=16_000, n_fft=512, win_length=400, hop_length=160,
            n_mels=64, f_min_hz=125.0, f_max_hz=7_500.0, center=False, power=1.0,
            mel_scale="htk", mel_norm="none", mel_triangles="mel",
            log="ln", floor=0.0, log_offset=1e-3,
        ),
        # Our own, for small sets and small networks: what is fainter than the floor, in one file the hiss of a room, in
        # another digital silence, would be learned by heart.
        FrontEnd(
            "logmel32k", sample_rate=32_000, n_fft=1024, win_length=1024, hop_length=640,
            n_mels=64, f_min_hz=50.0, f_max_hz=16_000.0, floor=1e-7,
        ),
    )
}
# fmt: on


def mirrored(positions: np.ndarray, n: int) -> np.ndarray:
    """Where among n samples positions beyond them lie once these are mirrored at both ends, however often."""
    period = max(1, 2 * (n - 1))
    folded = positions % period
    return np.minimum(folded, period - folded)


def get_front_end(name: str) -> FrontEnd:
    """A front end by its name.

    Raises:
        ConfigError: no front end of that name.
    """
    if name not in FRONT_ENDS:
        raise ConfigError(f"front end {name!r} is unknown; there are: {', '.join(sorted(FRONT_ENDS))}")
    return FRONT_ENDS[name]
