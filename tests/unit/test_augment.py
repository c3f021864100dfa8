"""Augmentation: drawn apart from applied, one pass of the engine."""

import numpy as np
import pytest

from audioclf.audio import augment
from audioclf.errors import ConfigError


def test_a_copy_depends_on_seed_clip_segment_and_copy_alone() -> None:
    def draw(*key: int | str) -> augment.Transform:
        seed, clip, part, copy = key
        return augment.TRANSFORM_SETS["stretch-pitch"].draw(augment.rng_of(int(seed), str(clip), int(part), int(copy)))

    assert draw(0, "a", 0, 1) == draw(0, "a", 0, 1)
    assert (
        len({draw(0, "a", 0, 1), draw(1, "a", 0, 1), draw(0, "b", 0, 1), draw(0, "a", 1, 1), draw(0, "a", 0, 2)}) == 5
    )


@pytest.mark.parametrize(
    ("transform", "hz", "duration_s"),
    [
        (augment.Transform(stretch=1.5, pitch_semitones=2), 440 * 2 ** (2 / 12), 1.5),
        (augment.Transform(stretch=0.8), 440.0, 0.8),
        (augment.Transform(pitch_semitones=-12), 220.0, 1.0),
    ],
)
def test_stretch_is_a_duration_factor_and_pitch_in_semitones(
    transform: augment.Transform, hz: float, duration_s: float
) -> None:
    tone = 1.5 * np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32)
    changed = augment.apply(transform, tone, 44_100, "x")
    assert abs(len(changed) - duration_s * 44_100) <= 1024
    middle = changed[len(changed) // 4 : len(changed) * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 19))
    found = np.argmax(spectrum) * 44_100 / (1 << 19)
    assert abs(1200 * np.log2(found / hz)) < 3  # cents
    assert np.abs(middle).max() > 1.3  # beyond full scale, not clipped


def test_silence_stays_silence() -> None:
    assert not augment.apply(augment.Transform(stretch=1.25), np.zeros(1000, np.float32), 44_100, "x").any()


def test_a_missing_rubberband_program_is_found_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="apt-get install rubberband-cli"):
        augment.check_transform_sets(("ts",))
    with pytest.raises(ConfigError, match="unknown"):
        augment.check_transform_sets(("bass-boost",))
    augment.check_transform_sets(())
