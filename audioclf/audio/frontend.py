"""Samples → log-mel pictures, by a named and frozen specification."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import as_strided

from audioclf.audio.mel import Bands, MelScale, mel_filters
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


def get_front_end(name: str) -> FrontEnd:
    """A front end by its name.

    Raises:
        ConfigError: no front end of that name.
    """
    if name not in FRONT_ENDS:
        raise ConfigError(f"front end {name!r} is unknown; there are: {', '.join(sorted(FRONT_ENDS))}")
    return FRONT_ENDS[name]


def log_mel(samples: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """The picture of a segment.

    Args:
        samples: [n] float32 at spec.sample_rate.
        spec: the front end.

    Returns:
        [spec.n_features, spec.n_frames(n)] float32. With the defaults: dB, the same as
        librosa.feature.melspectrogram(pad_mode="constant") and power_to_db(top_db=None).
    """
    window, window64, bands = _windows_and_bands(spec)
    n_frames = spec.n_frames(len(samples))
    samples, begin = _prepared(samples, spec, n_frames)
    mel, strongest = np.empty((len(bands.sums), n_frames), np.float32), np.empty(n_frames, np.float32)
    block = max(1, _BLOCK_SAMPLES // spec.n_fft)
    spectra = np.empty((min(block, n_frames), 1 + spec.n_fft // 2), np.float32)
    for first in range(0, n_frames, block):
        some = slice(first, min(first + block, n_frames))
        part = spectra[: some.stop - first]
        _spectra(_frames(samples, begin, range(first, some.stop), spec, window), spec.power, out=part)
        bands.apply(part, out=mel[:, some])
        part.max(axis=1, out=strongest[some])
    wide = _beyond_float32(strongest, mel, bands, spec)
    if len(wide):
        exact = np.empty((len(wide), 1 + spec.n_fft // 2), np.float32)
        _spectra(_frames(samples, begin, range(n_frames), spec, window64)[wide], spec.power, out=exact)
        again = np.empty((len(mel), len(wide)), np.float32)
        bands.apply(exact, out=again)
        mel[:, wide] = again
    return _compressed(mel, spec)


_BLOCK_SAMPLES = 256 * 1024
"""Samples in the frames of a block: a clip of 5 s is one; of a long segment, what is computed stays in the cache until
it has become mel bands."""


@functools.cache
def _windows_and_bands(spec: FrontEnd) -> tuple[np.ndarray, np.ndarray, Bands]:
    """Hann window as float32 and as float64, and the mel filters."""
    period = spec.win_length if spec.periodic_window else spec.win_length - 1
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.win_length) / period)
    return hann.astype(np.float32), hann, Bands.of(spec.filters())


def _prepared(samples: np.ndarray, spec: FrontEnd, n_frames: int) -> tuple[np.ndarray, int]:
    """The samples after pre-emphasis and reflection, and where in them frame 0 begins: before them, where negative."""
    if spec.pre_emphasis:
        emphasised = -spec.pre_emphasis * samples[:-1]
        emphasised += samples[1:]
        samples = emphasised
    # A centred window lies amid n_fft samples; where the transform finds it there only turns phases.
    before = spec.n_fft // 2 - (spec.n_fft - spec.win_length) // 2 if spec.center else 0
    if not spec.center or spec.pad_mode == "constant" or not len(samples):
        return samples, -before
    after = (n_frames - 1) * spec.hop_length + spec.win_length - before - len(samples)
    return np.pad(samples, (before, max(after, 0)), mode="reflect"), 0


def _frames(samples: np.ndarray, begin: int, which: range, spec: FrontEnd, window: np.ndarray) -> np.ndarray:
    """[len(which), n_fft] of the window's precision: frame t is window × the samples from begin + t·hop_length on."""
    length, hop = spec.win_length, spec.hop_length
    frames = np.empty((len(which), spec.n_fft), window.dtype)
    frames[:, length:] = 0
    # Frames [whole, late) lie within the samples. The rest take zeros beyond the ends; to pad would copy all samples.
    whole = min(max(which.start, -(begin // hop)), which.stop)
    late = max(whole, min(which.stop, 1 + (len(samples) - length - begin) // hop))
    if late > whole:
        first, step = begin + whole * hop, samples.strides[0]
        inside = as_strided(samples[first:], (late - whole, length), (hop * step, step))
        np.multiply(inside, window, out=frames[whole - which.start : late - which.start, :length])
    for t in (*range(which.start, whole), *range(late, which.stop)):
        at = begin + t * hop
        part = samples[max(at, 0) : at + length]
        there = slice(max(-at, 0), max(-at, 0) + len(part))
        frames[t - which.start, :length] = 0
        frames[t - which.start, there] = part * window[there]
    return frames


def _spectra(frames: np.ndarray, power: float, out: np.ndarray) -> None:
    """|X|^power of frames [n, n_fft] into out [n, 1 + n_fft/2]."""
    spectra = np.asarray(scipy.fft.rfft(frames, axis=1))
    np.square(np.real(spectra), out=out)
    out += np.square(np.imag(spectra))
    if power == 1:
        np.sqrt(out, out=out)


_FLOAT32_RANGE_DB = 105
"""A filter so far below its frame's strongest bin is right to 0.03 dB after a Fourier transform in float32."""


def _beyond_float32(strongest: np.ndarray, mel: np.ndarray, bands: Bands, spec: FrontEnd) -> np.ndarray:
    """The frames of which some filter's value is further down than that, and yet above the floor."""
    unsure = strongest * 10 ** (-_FLOAT32_RANGE_DB / 20 * spec.power)
    floor = max(spec.floor, spec.log_offset)
    wide = np.flatnonzero(np.maximum(mel.min(axis=0), floor) < unsure * bands.sums.max())
    values = mel[:, wide]
    return wide[((values > floor) & (values < bands.sums[:, None] * unsure[wide])).any(axis=0)]


def _compressed(mel: np.ndarray, spec: FrontEnd) -> np.ndarray:
    """The steps from the logarithm on; overwrites mel."""
    np.maximum(mel, spec.floor, out=mel)
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
