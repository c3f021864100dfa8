"""Augmentation: drawn apart from applied; each transform against its formula."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio import augment
from audioclf.audio.augment import TRANSFORM_SETS, Transform
from audioclf.audio.compression import COMPRESSORS
from audioclf.augmentation import Augmentation, Copy
from audioclf.backgrounds import Background
from audioclf.errors import SchemaError
from audioclf.policy import Policy

RATE = 44_100
BACKGROUNDS = ("rain.wav", "street.wav", "wind.wav")
NOISE = np.random.default_rng(0).normal(scale=0.1, size=RATE // 5).astype(np.float32)


def draw(name: str, number: int = 0, seed: int = 0, clip_id: str = "a", segment_index: int = 0) -> Transform:
    return augment.draw(name, number, seed, clip_id, segment_index, BACKGROUNDS)


def quiet_hum(name: str) -> np.ndarray:
    """Every background recording."""
    return 0.01 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE).astype(np.float32)


def apply(transform: Transform, samples: np.ndarray) -> np.ndarray:
    return augment.apply(transform, samples, RATE, "clip.wav", "r2", quiet_hum)


# --- drawing


@pytest.mark.parametrize("name", TRANSFORM_SETS)
def test_a_draw_depends_on_its_key_alone(name: str) -> None:
    assert draw(name, 1, 7, "b", 2) == draw(name, 1, 7, "b", 2)
    code = f"""
from audioclf.audio import augment
print(augment.draw({name!r}, 1, 7, "b", 2, {BACKGROUNDS!r}).to_json())
"""
    # Another process, whose strings have other hashes.
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )  # fmt: skip
    assert Transform.from_json(elsewhere.stdout) == draw(name, 1, 7, "b", 2)


@pytest.mark.parametrize("name", [name for name, one in TRANSFORM_SETS.items() if one.ranges])
def test_whatever_is_drawn_evenly_differs_by_every_part_of_the_key(name: str) -> None:
    keys = [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    drawn = {draw(name, *key).to_json() for key in keys}
    assert len(drawn) == len(keys)


def test_two_sets_of_the_same_field_are_drawn_apart() -> None:
    """Else a set's copies would be predictable from another's."""
    places = [[_turn("ps1", clip), _turn("ps2", clip)] for clip in map(str, range(400))]
    counts = Counter(map(tuple, places))
    assert len(counts) == 16
    # 25 of each, with a standard deviation of 4.8: five of them.
    assert all(1 <= count <= 50 for count in counts.values())


def _turn(name: str, clip_id: str) -> int:
    return TRANSFORM_SETS[name].choices.index(draw(name, clip_id=clip_id))


@pytest.mark.parametrize("name", [name for name, one in TRANSFORM_SETS.items() if len(one.choices) > 1])
def test_the_copies_of_a_discrete_set_take_all_its_choices_in_turn(name: str) -> None:
    choices = TRANSFORM_SETS[name].choices
    assert len(choices) == 4
    first_of = Counter()
    for clip_id in map(str, range(100)):
        drawn = [draw(name, number, clip_id=clip_id) for number in range(8)]
        assert sorted(drawn[:4], key=choices.index) == list(choices)
        assert drawn[4:] == drawn[:4]
        first_of[drawn[0]] += 1
    assert len(first_of) == 4  # the order is drawn: one copy alone is not always the same one


def test_the_copies_of_bg_take_all_recordings_in_turn_each_with_its_own_weight() -> None:
    drawn = [draw("bg", number) for number in range(6)]
    assert sorted(one.background for one in drawn[:3]) == list(BACKGROUNDS)
    assert [one.background for one in drawn[3:]] == [one.background for one in drawn[:3]]
    assert len({one.background_weight for one in drawn}) == 6


def test_the_published_sets_are_those_of_the_paper() -> None:
    """Salamon & Bello 2017, section II.D."""
    tempi = [round(1 / one.stretch, 12) for one in TRANSFORM_SETS["ts"].choices]
    assert tempi == [0.81, 0.93, 1.07, 1.23]
    assert [one.pitch_semitones for one in TRANSFORM_SETS["ps1"].choices] == [-2, -1, 1, 2]
    assert [one.pitch_semitones for one in TRANSFORM_SETS["ps2"].choices] == [-3.5, -2.5, 2.5, 3.5]
    drc = [one.compression for one in TRANSFORM_SETS["drc"].choices]
    assert drc == ["music-standard", "film-standard", "speech", "radio"]
    assert TRANSFORM_SETS["bg"].ranges["background_weight"] == (0.1, 0.5)


@pytest.mark.parametrize("name", [name for name, one in TRANSFORM_SETS.items() if one.ranges])
def test_ranges_are_drawn_evenly(name: str) -> None:
    """Kolmogorov-Smirnov: 400 even draws stay within 0.122 of the diagonal but once in 10^5."""
    for field, (low, high) in TRANSFORM_SETS[name].ranges.items():
        drawn = np.sort([getattr(draw(name, clip_id=str(i)), field) for i in range(400)])
        even = (drawn - low) / (high - low)
        assert np.abs(even - (np.arange(400) + 0.5) / 400).max() < 0.122


@given(copies=st.integers(1, 6), number=st.integers(0, 5), clip_id=st.text(max_size=5))
def test_a_copy_is_the_same_however_many_there_are_and_whatever_other_sets(
    copies: int, number: int, clip_id: str
) -> None:
    found = tuple(Background(name, f"file:///{name}", "1") for name in BACKGROUNDS)
    few = Augmentation(("ts",), number + 1, 3, backgrounds=found)
    many = Augmentation(("bg", "ts", "noise"), number + copies, 3, backgrounds=found)
    (one,) = [copy for copy in many.all_copies if (copy.transform_set, copy.number) == ("ts", number)]
    assert many.draw(one, clip_id, 4) == few.draw(few.all_copies[1 + number], clip_id, 4)


def test_copies_are_numbered_set_by_set_and_a_policy_leaves_numbers_out() -> None:
    policy = Policy({"dog": {"ps1": 1.0}, "*": {"ts": 0.5, "ps1": 0.0}})
    augmentation = Augmentation(("ps1", "ts"), 2, policy=policy)
    assert augmentation.all_copies == [
        Copy(0, "none", 0), Copy(1, "ps1", 0), Copy(2, "ps1", 1), Copy(3, "ts", 0), Copy(4, "ts", 1),
    ]  # fmt: skip
    assert [copy.index for copy in augmentation.copies_of(["dog"])] == [0, 1, 2]
    assert [copy.index for copy in augmentation.copies_of(["cat"])] == [0, 3, 4]
    assert [copy.index for copy in augmentation.copies_of(["cat", "dog"])] == [0]
    assert [copy.index for copy in augmentation.copies_of([])] == [0, 3, 4]


def test_the_engine_is_needed_where_it_has_something_to_do() -> None:
    needs = {name for name in TRANSFORM_SETS if Augmentation((name,)).needs_engine}
    assert needs == {"ts", "ps1", "ps2", "stretch-pitch"}
    assert not Augmentation().needs_engine


# --- as text


@given(
    name=st.sampled_from(sorted(TRANSFORM_SETS)), number=st.integers(0, 9), seed=st.integers(0, 99), clip_id=st.text()
)
def test_a_drawn_transform_survives_its_text(name: str, number: int, seed: int, clip_id: str) -> None:
    drawn = draw(name, number, seed, clip_id)
    assert Transform.from_json(drawn.to_json()) == drawn


def test_the_text_names_what_changes() -> None:
    assert Transform().to_json() == "{}"
    assert Transform(stretch=1.5, snr_db=20.0).to_json() == '{"snr_db": 20.0, "stretch": 1.5}'


@pytest.mark.parametrize("text", ['{"reverb": 3}', "[1]", "7"])
def test_a_text_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match="not a transform of this version"):
        Transform.from_json(text)


# --- applying


def test_no_transform_changes_nothing() -> None:
    np.testing.assert_array_equal(apply(Transform(), NOISE), NOISE)


def test_gain_is_in_decibels() -> None:
    np.testing.assert_allclose(apply(Transform(gain_db=6.0), NOISE), NOISE * 1.9952623, rtol=1e-6)


def test_noise_lies_as_far_below_the_sound_as_drawn_and_is_white() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    transform = Transform(snr_db=20.0, noise_seed=3)
    added = apply(transform, tone) - tone
    # The noise's own level varies by 1/sqrt(2 N): 0.03 dB, and four of these.
    assert 10 * np.log10(np.mean(tone**2) / np.mean(added**2)) == pytest.approx(20, abs=0.12)
    power = np.abs(np.fft.rfft(added)) ** 2
    halves = power[: len(power) // 2].mean() / power[len(power) // 2 :].mean()
    assert halves == pytest.approx(1, abs=0.06)  # 1 % a half, four of these
    assert not np.array_equal(apply(Transform(snr_db=20.0, noise_seed=4), tone) - tone, added)


@pytest.mark.parametrize("shift_s", [0.05, -0.05])
def test_a_shift_is_to_later_and_cyclic(shift_s: float) -> None:
    changed = apply(Transform(shift_s=shift_s), NOISE)
    places = (np.arange(len(NOISE)) + round(shift_s * RATE)) % len(NOISE)
    np.testing.assert_array_equal(changed[places], NOISE)


@pytest.mark.parametrize("position", [0.0, 0.25, 1.0])
def test_a_background_is_mixed_in_by_its_weight_from_its_place(position: float) -> None:
    background = np.random.default_rng(1).normal(scale=0.1, size=3 * len(NOISE)).astype(np.float32)
    transform = Transform(background="rain.wav", background_position=position, background_weight=0.3)
    changed = augment.apply(transform, NOISE, RATE, "x", "r2", lambda name: background)
    first = round(position * 2 * len(NOISE))  # as late as it can: its end is the background's
    part = background[first : first + len(NOISE)]
    np.testing.assert_allclose(changed, 0.7 * NOISE + 0.3 * part, atol=1e-7)  # float32
    assert changed.dtype == np.float32


def test_a_short_background_is_repeated() -> None:
    background = np.array([0.5, -0.25, 1.0], np.float32)
    transform = Transform(background="rain.wav", background_position=0.9, background_weight=0.5)
    changed = augment.apply(transform, np.zeros(8, np.float32), RATE, "x", "r2", lambda name: background)
    np.testing.assert_array_equal(changed, [0.25, -0.125, 0.5, 0.25, -0.125, 0.5, 0.25, -0.125])


def test_the_background_is_the_one_named() -> None:
    asked = []

    def background(name: str) -> np.ndarray:
        asked.append(name)
        return np.zeros(1, np.float32)

    augment.apply(Transform(background="wind.wav", background_weight=0.5), NOISE, RATE, "x", "r2", background)
    assert asked == ["wind.wav"]


def test_a_transform_of_several_changes_is_applied_in_the_order_of_its_fields() -> None:
    whole = Transform(
        stretch=1.25, pitch_semitones=1.0, compression="speech", background="rain.wav", background_weight=0.2,
        gain_db=-3.0, snr_db=15.0, noise_seed=5, shift_s=0.02,
    )  # fmt: skip
    one_by_one = NOISE
    for step in (
        Transform(stretch=1.25, pitch_semitones=1.0), Transform(compression="speech"),
        Transform(background="rain.wav", background_weight=0.2), Transform(gain_db=-3.0),
        Transform(snr_db=15.0, noise_seed=5), Transform(shift_s=0.02),
    ):  # fmt: skip
        one_by_one = apply(step, one_by_one)
    np.testing.assert_array_equal(apply(whole, NOISE), one_by_one)


# --- odd sounds, through every set


@pytest.mark.parametrize("name", TRANSFORM_SETS)
@pytest.mark.parametrize("n", [1, 10, 1000])
def test_a_short_sound_comes_out_as_long_as_drawn(name: str, n: int) -> None:
    for number in range(4):
        transform = draw(name, number)
        changed = apply(transform, NOISE[:n])
        assert (changed.shape, changed.dtype) == ((round(n * transform.stretch),), np.float32)
        assert np.isfinite(changed).all()


@pytest.mark.parametrize("name", [name for name in TRANSFORM_SETS if name != "bg"])
def test_silence_stays_silence(name: str) -> None:
    for number in range(4):
        assert not apply(draw(name, number), np.zeros(5_000, np.float32)).any()


def test_silence_takes_a_background() -> None:
    transform = draw("bg")
    changed = apply(transform, np.zeros(5_000, np.float32))
    assert np.abs(changed).max() == pytest.approx(0.01 * transform.background_weight, rel=1e-3)


@pytest.mark.parametrize("name", TRANSFORM_SETS)
def test_a_clipped_sound_beyond_full_scale_is_not_clipped_anew(name: str) -> None:
    """A square wave of ±1.5, four copies of each set."""
    square = np.where(np.arange(RATE // 2) // 50 % 2, 1.5, -1.5).astype(np.float32)
    for number in range(4):
        transform = draw(name, number)
        peak = np.abs(apply(transform, square)).max()
        if transform.needs_engine:
            assert peak > 1.5  # edges ring
        elif transform.compression:
            # Always louder than 0 dB, it gets the gain at the end of the curve.
            compressor = COMPRESSORS[transform.compression]
            gain_db = compressor.curve_db[-1][1] + compressor.gain_db
            assert peak == pytest.approx(1.5 * 10 ** (gain_db / 20), rel=1e-6)
        elif transform.background:
            assert peak == pytest.approx(1.5 * (1 - transform.background_weight), abs=0.01)
        elif transform.gain_db:
            assert peak == pytest.approx(1.5 * 10 ** (transform.gain_db / 20), rel=1e-6)
        elif transform.snr_db < np.inf:
            assert peak > 1.5
        else:
            assert peak == 1.5


def test_drawn_pitches_spread_over_their_range_on_frequencies_that_are_cheap_to_make() -> None:
    drawn = [augment.draw("stretch-pitch", i, 0, "clip", 0).pitch_semitones for i in range(300)]
    ratios = 256 * 2 ** (np.array(drawn) / 12)
    np.testing.assert_allclose(ratios, np.rint(ratios), atol=1e-9)
    assert scipy.stats.kstest(drawn, scipy.stats.uniform(-2, 4).cdf).pvalue > 0.01
