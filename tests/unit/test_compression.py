"""Compression against ffmpeg's port of sox's compander, and against the steady state of its level follower."""

import shutil
import subprocess

import numpy as np
import pytest
from scipy.optimize import brentq

from audioclf.audio.compression import COMPRESSORS, Compressor

RATE = 16_000


def by_ffmpeg(compressor: Compressor, samples: np.ndarray) -> np.ndarray:
    """The filter `compand`; its first level is 0 dB as sox's is, its corners are rounded over 0.01 dB at least."""
    settings = {
        "attacks": compressor.attack_s,
        "decays": compressor.decay_s,
        "points": "|".join(f"{level_in:g}/{level_out:g}" for level_in, level_out in compressor.curve_db),
        "soft-knee": 0.01,
        "gain": compressor.gain_db,
        "volume": 0,
        "delay": compressor.look_ahead_s,
    }
    raw = ["-f", "f32le", "-ar", str(RATE), "-ac", "1"]
    compand = "compand=" + ":".join(f"{name}={value}" for name, value in settings.items())
    done = subprocess.run(
        ["ffmpeg", "-v", "error", *raw, "-i", "-", "-af", compand, "-c:a", "pcm_f32le", *raw, "-"],
        input=samples.astype(np.float32).tobytes(), capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    return np.frombuffer(done.stdout, np.float32)


def jumping_noise() -> np.ndarray:
    """Half a second each of soft and loud noise, so that the follower is never at rest.

    None is above 0 dB, where sox, whose samples end there, says nothing, and ffmpeg leaves out the gain.
    """
    level_db = np.repeat([-60, -12, -75, -30, -5, -45, 0], RATE // 2)
    noise = np.random.default_rng(0).uniform(-1, 1, len(level_db))
    return (noise * 10 ** (level_db / 20)).astype(np.float32)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_compressor_is_that_of_ffmpeg(name: str) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg as the second compander")
    samples = jumping_noise()
    theirs, ours = by_ffmpeg(COMPRESSORS[name], samples), COMPRESSORS[name].apply(samples, RATE)
    assert (len(ours), ours.dtype) == (len(theirs), np.float32)
    heard = np.abs(samples) > 1e-6  # below it float32's digits are few
    ratio_db = 20 * np.log10(np.abs(ours[heard]) / np.abs(theirs[heard]))
    # Their rounded corners: a quarter of 0.01 dB times the change of slope, which is 5 at most.
    assert np.abs(ratio_db).max() < 0.0125
    assert np.quantile(np.abs(ratio_db), 0.99) < 1e-4


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("level_db", [-95.0, -80.0, -65.0, -50.0, -25.0, -10.0, 0.0, 6.0])
def test_a_steady_level_gets_the_gain_that_the_curve_says(name: str, level_db: float) -> None:
    compressor = COMPRESSORS[name]
    samples = np.where(np.arange(8 * RATE) % 2, 1, -1) * 10 ** (level_db / 20)
    level_in, level_out = np.array(compressor.curve_db).T
    on_curve_db = float(np.clip(level_db, level_in[0], 0))  # beyond its ends the curve's gain stays what it is there
    expected_db = np.interp(on_curve_db, level_in, level_out) + level_db - on_curve_db + compressor.gain_db
    changed = compressor.apply(samples.astype(np.float32), RATE)
    # After 8 s the follower has come from 0 dB to within exp(−8 s / decay) of the level, 0.0003 at most.
    settled_db = 20 * np.log10(np.abs(changed[-1]))
    short_of_db = 20 * np.log10(1 + np.exp(-8 / compressor.decay_s) / 10 ** (level_db / 20))
    assert settled_db == pytest.approx(expected_db, abs=5 * short_of_db + 1e-4)


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("peak_db", [-6.0, -20.0, -40.0])
def test_a_tone_gets_the_gain_of_the_level_that_the_follower_settles_at(name: str, peak_db: float) -> None:
    """Where a follower rests, what it rises by above a level over a period is what it falls by below."""
    compressor, peak = COMPRESSORS[name], 10 ** (peak_db / 20)
    seconds, hz = 10, 3_001  # no divisor of the rate: its samples meet every phase
    samples = (peak * np.sin(2 * np.pi * hz * np.arange(seconds * RATE) / RATE)).astype(np.float32)
    phases = np.abs(np.sin(np.linspace(0, np.pi, 100_001)))

    def rises(level: float) -> float:
        above, below = np.maximum(phases - level, 0).mean(), np.maximum(level - phases, 0).mean()
        return above / compressor.attack_s - below / compressor.decay_s

    level_db = peak_db + 20 * np.log10(float(np.asarray(brentq(rises, 0, 1))))
    level_in, level_out = np.array(compressor.curve_db).T
    gain_db = np.interp(level_db, level_in, level_out - level_in) + compressor.gain_db
    last = slice(-RATE // 10, None)
    changed = compressor.apply(samples, RATE)
    found_db = 10 * np.log10(np.mean(changed[last] ** 2) / np.mean(samples[last] ** 2))
    # Within a period the level ripples by 1 % (radio's attack of 10 ms): 0.1 dB.
    assert found_db == pytest.approx(gain_db, abs=0.1)


def test_the_follower_starts_from_full_scale_and_falls_by_its_time_constant() -> None:
    halving = Compressor(0.1, 0.3, ((-100, -150), (0, 0)))  # half as much gain again: the level itself, to the 0.5th
    samples = np.full(RATE, 1e-6, np.float32)
    gains = halving.apply(samples, RATE) / samples
    level = np.exp(-np.arange(1, RATE + 1) / (0.3 * RATE))
    np.testing.assert_allclose(gains, level**0.5, rtol=1e-4)  # the level sought is 1e-6, not 0


def test_looking_ahead_heeds_the_level_of_later() -> None:
    now, ahead = (Compressor(0.1, 0.3, ((-90, -60), (0, -20)), look_ahead_s=s) for s in (0.0, 0.1))
    samples = jumping_noise() + np.float32(1e-6)
    lag = round(0.1 * RATE)
    gains_now, gains_ahead = (one.apply(samples, RATE) / samples for one in (now, ahead))
    np.testing.assert_allclose(gains_ahead[:-lag], gains_now[lag:], rtol=1e-5)
    np.testing.assert_allclose(gains_ahead[-lag:], gains_now[-1], rtol=1e-5)  # no later ones: the last


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("n", [0, 1, 10])
def test_a_sound_shorter_than_the_look_ahead_keeps_its_length(name: str, n: int) -> None:
    changed = COMPRESSORS[name].apply(np.full(n, 0.5, np.float32), RATE)
    assert (changed.shape, changed.dtype) == ((n,), np.float32)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("name", COMPRESSORS)
def test_silence_stays_silence(name: str) -> None:
    assert not COMPRESSORS[name].apply(np.zeros(RATE, np.float32), RATE).any()
