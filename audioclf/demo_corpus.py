"""A small labelled corpus, made up on the spot: ten classes of synthetic sound, as untidy as real collections are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

SOURCES, CLIPS_PER_SOURCE = 6, 4
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
FORMATS = (("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS"))

Synthesiser = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]
"""(rng, time in s [n], the source's frequency in Hz) to samples [n]."""


def _phase(frequency: np.ndarray | float, time: np.ndarray) -> np.ndarray:
    step = time[1] - time[0]
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, time.shape)) * step


def _bell(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    sound = np.zeros_like(time)
    for strike in np.arange(rng.uniform(0, 0.3), time[-1], rng.uniform(0.6, 1.0)):
        since = np.maximum(time - strike, 0)
        for partial in (1, 2.76, 5.4):
            sound += (
                np.where(time >= strike, np.exp(-4 * since) * np.sin(2 * np.pi * hz * partial * since), 0) / partial
            )
    return sound


def _buzz(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    return np.sign(np.sin(_phase(hz / 5, time)))


def _chirp_up(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    sweep = (time * rng.uniform(1.5, 2.5)) % 1
    return np.sin(_phase(hz * 4**sweep, time))


def _chirp_down(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    sweep = (time * rng.uniform(1.5, 2.5)) % 1
    return np.sin(_phase(hz * 4 ** (1 - sweep), time))


def _clicks(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    since = time % rng.uniform(0.2, 0.3)
    return np.exp(-since * 400) * np.sin(2 * np.pi * 3 * hz * since)


def _crackle(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    return np.where(rng.random(len(time)) < 60 * (time[1] - time[0]), rng.normal(size=len(time)), 0)


def _hiss(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    return np.diff(rng.normal(size=len(time) + 1))


def _rumble(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    spectrum = np.fft.rfft(rng.normal(size=len(time)))
    spectrum[np.fft.rfftfreq(len(time), time[1] - time[0]) > 200] = 0
    return np.fft.irfft(spectrum, len(time))


def _siren(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    return np.sin(_phase(hz * 2 ** np.sin(2 * np.pi * rng.uniform(0.4, 0.7) * time), time))


def _tremolo(rng: np.random.Generator, time: np.ndarray, hz: float) -> np.ndarray:
    return np.sin(_phase(hz, time)) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(7, 10) * time))


CLASSES: dict[str, Synthesiser] = {
    "bell": _bell,
    "buzz": _buzz,
    "chirp_down": _chirp_down,
    "chirp_up": _chirp_up,
    "clicks": _clicks,
    "crackle": _crackle,
    "hiss": _hiss,
    "rumble": _rumble,
    "siren": _siren,
    "tremolo": _tremolo,
}


def synthesise(name: str, rng: np.random.Generator, duration_s: float, sample_rate: int, hz: float) -> np.ndarray:
    """[n] float32 of one class in faint background noise, peak below 0.9."""
    time = np.arange(round(duration_s * sample_rate)) / sample_rate
    sound = CLASSES[name](rng, time, hz)
    sound = sound / max(np.abs(sound).max(), 1e-9) + rng.normal(scale=rng.uniform(0.002, 0.02), size=len(time))
    return (sound * rng.uniform(0.2, 0.8)).astype(np.float32)


def make_clips(folder: Path, seed: int = 0) -> None:
    """folder/CLASS/SOURCE-CLIP.suffix: 240 good clips, and three broken ones."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for source in range(SOURCES):
            hz = float(rng.uniform(300, 900))
            for clip in range(CLIPS_PER_SOURCE):
                rate, (suffix, subtype) = int(rng.choice(RATES)), FORMATS[rng.integers(len(FORMATS))]
                sound = synthesise(name, rng, rng.uniform(1, 4), rate, hz)
                if rng.random() < 0.3:
                    sound = np.stack([sound, 0.5 * sound], axis=1)
                soundfile.write(folder / name / f"{source}-{clip}.{suffix}", sound, rate, subtype=subtype)
    (folder / "bell" / "9-0.wav").write_bytes(b"")
    (folder / "buzz" / "9-0.wav").write_text("not a sound at all\n")
    whole = (folder / "clicks" / "9-0.wav").resolve()
    soundfile.write(whole, np.zeros(8000, np.float32), 8000)
    whole.write_bytes(whole.read_bytes()[:30])  # ends inside the header


def make_recordings(folder: Path, seed: int = 1) -> None:
    """Four recordings in which sounds of several classes follow one another."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rate = 44_100
    for number in range(4):
        names = rng.choice(list(CLASSES), 3, replace=False)
        parts = [synthesise(str(name), rng, 4.0, rate, float(rng.uniform(300, 900))) for name in names]
        soundfile.write(folder / f"{number + 1}_{'_then_'.join(names)}.wav", np.concatenate(parts), rate)
