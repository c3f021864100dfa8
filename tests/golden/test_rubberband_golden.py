"""Stretching and shifting against the rubberband program itself, run by hand on float32 files."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioclf.audio import augment, rubberband
from audioclf.audio.augment import Transform

BOTH = Transform(stretch=1.5, pitch_semitones=2.0)
RATE = 44_100

pytestmark = pytest.mark.skipif(shutil.which("rubberband") is None, reason="needs the rubberband program")


def by_the_program(folder: Path, samples: np.ndarray, rate: int, *flags: str) -> np.ndarray:
    """What `rubberband FLAGS in.wav out.wav` writes."""
    before, after = folder / "in.wav", folder / "out.wav"
    soundfile.write(before, samples, rate, subtype="FLOAT")
    subprocess.run(["rubberband", *flags, before, after], check=True, capture_output=True)
    found, found_rate = soundfile.read(after, dtype="float32")
    assert found_rate == rate
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


def loudest_hz(samples: np.ndarray, rate: int) -> float:
    """Of the middle half; the spectrum is drawn out to steps of a twelfth of a hertz: 0.3 cents at 440 Hz."""
    middle = samples[len(samples) // 4 : len(samples) * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 19))
    return int(np.argmax(spectrum)) * rate / (1 << 19)


def tone(hz: float, peak: float) -> np.ndarray:
    """A second of it as a 16-bit recording holds it. Of a tone without any noise the program itself, in its faster
    engine, makes one that is up to 20 cents off; noise 120 dB below is enough."""
    steps = np.round(32768 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE))
    return (peak * steps / 32768).astype(np.float32)


def cents(hz: float, reference_hz: float) -> float:
    return 1200 * np.log2(hz / reference_hz)


@pytest.mark.parametrize("which", range(20))
def test_real_clips_become_what_the_program_makes_of_them(shared: Path, tmp_path: Path, which: int) -> None:
    paths = sorted((shared / "data" / "esc10" / "audio").glob("*/*.ogg"))[::20]
    if not paths:
        pytest.skip("needs data/esc10 below AUDIOCLF_SHARED")
    samples, rate = soundfile.read(paths[which], dtype="float32", frames=2 * RATE)
    theirs = by_the_program(tmp_path, samples, rate, "-t", "1.5", "-p", "2")
    ours = augment.apply(BOTH, samples, rate, "x")
    assert ours.dtype == np.float32
    assert abs(len(ours) - len(theirs)) <= 1024
    assert len(ours) == round(1.5 * len(samples))
    if samples.any():
        assert correlation(ours, theirs) > 0.999, paths[which].name
    else:  # one begins with two seconds of digital silence
        assert not ours.any()
        assert not theirs.any()


@pytest.mark.parametrize(
    ("transform", "hz", "duration_s"),
    [
        (BOTH, 440 * 2 ** (2 / 12), 1.5),
        (Transform(stretch=0.8), 440.0, 0.8),
        (Transform(pitch_semitones=-12.0), 220.0, 1.0),
        (Transform(stretch=1.25, pitch_semitones=0.5), 440 * 2 ** (0.5 / 12), 1.25),
    ],
)
@pytest.mark.parametrize("engine", ["r2", "r3"])
def test_stretch_is_a_duration_factor_and_pitch_in_semitones(
    transform: Transform, hz: float, duration_s: float, engine: rubberband.Engine
) -> None:
    changed = augment.apply(transform, tone(440, 0.5), RATE, "x", engine)
    assert len(changed) == round(duration_s * RATE)
    assert abs(cents(loudest_hz(changed, RATE), hz)) < 3


def test_the_finer_engine_is_the_one_that_the_program_calls_fine(tmp_path: Path) -> None:
    chord = sum(np.sin(2 * np.pi * hz * np.arange(RATE // 2) / RATE) for hz in (220, 330, 523))
    samples = (0.1 * np.asarray(chord)).astype(np.float32)
    fine = by_the_program(tmp_path, samples, RATE, "-t", "1.5", "-p", "2", "--fine")
    fast = by_the_program(tmp_path, samples, RATE, "-t", "1.5", "-p", "2", "--fast")
    ours = augment.apply(BOTH, samples, RATE, "x", "r3")
    assert correlation(ours, fine) > 0.999
    assert correlation(ours, fast) < 0.99


def test_peaks_beyond_full_scale_are_not_clipped(tmp_path: Path) -> None:
    loud = tone(440, 1.5)
    changed = augment.apply(BOTH, loud, RATE, "x")
    middle = changed[len(changed) // 4 : len(changed) * 3 // 4]
    assert np.abs(middle).max() > 1.3  # the engine's own level varies a little
    unclipped = 16 * by_the_program(tmp_path, loud / 16, RATE, "-t", "1.5", "-p", "2")
    np.testing.assert_allclose(changed, unclipped, atol=1e-4)


def test_clipped_noise_keeps_its_level(tmp_path: Path) -> None:
    """Its peaks become four times as high: where they would not fit its file, the program makes all of it softer."""
    noise = np.sign(np.random.default_rng(0).normal(size=RATE)).astype(np.float32)
    expected = 128 * by_the_program(tmp_path, noise / 128, RATE, "-t", "1.5", "-p", "2")
    changed = augment.apply(BOTH, noise, RATE, "x")
    assert np.abs(expected).max() > 3
    assert correlation(changed, expected) > 0.999
    np.testing.assert_allclose(np.sqrt(np.mean(changed**2)), np.sqrt(np.mean(expected**2)), rtol=1e-3)
