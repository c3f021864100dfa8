"""Bytes of an audio file → mono samples at the rate the front end wants."""

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import xxhash

from audioclf.errors import DecodeError, EmptyClipError

BLOCK_VALUES = 1 << 24
"""Samples × channels decoded at a time: a header that promises more than the file holds allocates no more."""

SILENT_PEAK = 1e-4
"""−80 dB of full scale; one step of 16-bit PCM is 3e-5."""

CLIPPED_RUN = 3
"""So many neighbouring samples at full scale make a clip `clipped`; fewer may be a true peak."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    duration_s: float
    sample_rate: int
    channels: int


@dataclass(frozen=True)
class Audio:
    """Decoded sound.

    Attributes:
        samples: [n] float32, mono, full scale ±1.
        sample_rate: Hz.
        flags: any of `silent`, `clipped`, `truncated` (fewer samples than the header promises).
        content_digest: of the PCM as decoded, before mixing and resampling.
    """

    samples: np.ndarray
    sample_rate: int
    flags: tuple[str, ...]
    content_digest: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate


def probe(file: BinaryIO, clip_uri: str) -> AudioInfo:
    """Read a file's header.

    Raises:
        DecodeError: not audio that libsndfile knows.
    """
    try:
        with soundfile.SoundFile(file) as sound:
            return AudioInfo(sound.frames / sound.samplerate, sound.samplerate, sound.channels)
    except soundfile.LibsndfileError as error:
        raise DecodeError(clip_uri, "decode", _reason(error)) from error


def decode(file: BinaryIO, clip_uri: str, start_s: float | None = None, end_s: float | None = None) -> Audio:
    """Decode a file, or the part from start_s to end_s, and mix its channels to one (their mean).

    Raises:
        DecodeError: not audio, a format libsndfile lacks, damaged beyond reading, or samples that are NaN or
            infinite.
        EmptyClipError: there are no samples.
    """
    try:
        with soundfile.SoundFile(file) as sound:
            rate, channels = sound.samplerate, sound.channels
            start = 0 if start_s is None else min(round(start_s * rate), sound.frames)
            stop = sound.frames if end_s is None else min(round(end_s * rate), sound.frames)
            if start:
                sound.seek(start)
            pcm = _read_frames(sound, max(0, stop - start))
    except soundfile.LibsndfileError as error:
        raise DecodeError(clip_uri, "decode", _reason(error)) from error
    if len(pcm) == 0:
        raise EmptyClipError(clip_uri, "decode", "the file holds no samples")
    peak = max(float(pcm.max()), -float(pcm.min()))
    if not np.isfinite(peak):
        raise DecodeError(clip_uri, "decode", "samples that are NaN or infinite")
    flags = []
    if peak < SILENT_PEAK:
        flags.append("silent")
    if _is_clipped(pcm, peak):
        flags.append("clipped")
    if len(pcm) < stop - start:
        flags.append("truncated")
    mono = pcm[:, 0] if channels == 1 else pcm.mean(axis=1, dtype=np.float32)
    return Audio(np.ascontiguousarray(mono), rate, tuple(flags), xxhash.xxh3_128_hexdigest(pcm.data))


def resample(samples: np.ndarray, rate: int, target_rate: int) -> np.ndarray:
    """[n] float32 at another rate, by soxr's HQ filter."""
    if rate == target_rate:
        return samples
    return soxr.resample(samples, rate, target_rate, quality="HQ")


def _read_frames(sound: soundfile.SoundFile, frames: int) -> np.ndarray:
    """[n, channels] float32; n falls short of `frames` where the file does."""
    block_frames = max(1, BLOCK_VALUES // sound.channels)
    blocks = []
    while frames > 0:
        block = sound.read(min(frames, block_frames), dtype="float32", always_2d=True)
        blocks.append(block)
        frames -= len(block)
        if len(block) == 0:
            break
    if not blocks:
        return np.empty((0, sound.channels), np.float32)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _is_clipped(pcm: np.ndarray, peak: float) -> bool:
    """Whether a channel stays at its full scale for a few samples on end."""
    if peak < 0.999:
        return False
    full = np.abs(pcm) >= 0.999
    run = full[: len(full) - CLIPPED_RUN + 1].copy()
    for shift in range(1, CLIPPED_RUN):
        run &= full[shift : len(full) - CLIPPED_RUN + 1 + shift]
    return bool(run.any())


def _reason(error: soundfile.LibsndfileError) -> str:
    """libsndfile's words, but for the one message that misleads."""
    if "not a regular file" in error.error_string:
        return "no audio format that libsndfile knows"
    return error.error_string.strip().rstrip(".")
