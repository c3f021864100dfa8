"""The front end: geometry, and what makes two of them differ."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio.frontend import FrontEnd, get_front_end, log_mel, mel_filters
from audioclf.audio.segment import segment_samples, segment_starts

SPEC = get_front_end("logmel44k")
HALF_HOP = dataclasses.replace(SPEC, name="overlapping", hop_length=512)


def test_logmel44k_is_the_recipe() -> None:
    assert SPEC.to_dict() == {
        "name": "logmel44k", "sample_rate": 44_100, "n_fft": 1024, "win_length": 1024, "hop_length": 1024,
        "n_mels": 128, "f_min_hz": 0.0, "f_max_hz": 22_050.0, "floor": 1e-10,
    }  # fmt: skip
    assert FrontEnd.from_dict(SPEC.to_dict()) == SPEC
    assert SPEC.floor_db == -100.0


@pytest.mark.parametrize(("spec", "frames_of_5_s"), [(SPEC, 216), (HALF_HOP, 431)])
def test_five_seconds_have_so_many_frames(spec: FrontEnd, frames_of_5_s: int) -> None:
    assert spec.n_frames(5 * 44_100) == frames_of_5_s
    assert log_mel(np.zeros(5 * 44_100, np.float32), spec).shape == (128, frames_of_5_s)


@given(n_samples=st.integers(0, 3_000_000), hop_length=st.integers(1, 4096))
def test_the_last_frame_is_centred_within_the_segment(n_samples: int, hop_length: int) -> None:
    spec = dataclasses.replace(SPEC, hop_length=hop_length)
    n_frames = spec.n_frames(n_samples)
    assert (n_frames - 1) * hop_length <= n_samples < n_frames * hop_length
    assert spec.duration_s(n_frames) == pytest.approx((n_frames - 1) * hop_length / 44_100)


@pytest.mark.parametrize(("sample", "frame"), [(0, 0), (500, 0), (525, 1), (1024, 1), (1500, 1), (4600, 4)])
def test_a_click_is_heard_in_the_frame_around_it_alone(sample: int, frame: int) -> None:
    """Frame t holds samples t·1024 − 512 up to t·1024 + 511; within a dozen of these ends the window mutes a click."""
    samples = np.zeros(8192, np.float32)
    samples[sample] = 1
    heard = log_mel(samples, SPEC).max(axis=0) > SPEC.floor_db + 1
    assert np.flatnonzero(heard).tolist() == [frame]


def test_twice_the_amplitude_is_6_db_more() -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=4096).astype(np.float32)
    difference = log_mel(2 * samples, SPEC) - log_mel(samples, SPEC)
    np.testing.assert_allclose(difference, 20 * np.log10(2), atol=1e-4)


def test_filters_have_unit_area_where_bins_are_dense() -> None:
    """Slaney's norm: height 2 / width, so a triangle over dense bins sums to 1 / bin spacing."""
    dense = dataclasses.replace(SPEC, n_fft=16_384, win_length=16_384)
    areas = mel_filters(dense).sum(axis=1) * 44_100 / 16_384
    np.testing.assert_allclose(areas, 1, atol=0.01)


def test_differences_name_each_field_and_both_sides() -> None:
    other = dataclasses.replace(SPEC, n_mels=64, f_min_hz=50.0)
    assert SPEC.differences(other) == "n_mels 128 against 64, f_min_hz 0.0 against 50.0"
    assert SPEC.differences(FrontEnd.from_dict(SPEC.to_dict())) == ""


@given(n_samples=st.integers(1, 10_000_000), rate=st.sampled_from([8_000, 22_050, 32_000, 44_100, 48_000]))
def test_a_segment_as_long_as_a_clip_holds_it_whole(n_samples: int, rate: int) -> None:
    length = segment_samples(n_samples / rate, rate)
    assert length == n_samples
    resampled = round(n_samples * 44_100 / rate)
    assert segment_starts(resampled, segment_samples(n_samples / rate, 44_100), 44_100, 0.0) == [0]
