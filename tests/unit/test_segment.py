"""Segments: they cover the recording, and each is the same however the recording is divided."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio import segment
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid, Segment, segments
from audioclf.errors import DecodeError, EmptyClipError

Wav = Callable[..., Path]


def recording(samples: np.ndarray, rate: int = 8_000, kind: tuple[str, str] = ("WAV", "FLOAT")) -> Recording:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind[0], subtype=kind[1])
    return Recording(buffer, "x")


def noise(frames: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(frames).normal(scale=0.1, size=(frames, *channels)).astype(np.float32)


@given(
    n_samples=st.integers(1, 5_000),
    length=st.integers(1, 1_000),
    min_tail=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_segments_cover_all_but_a_short_tail(n_samples: int, length: int, min_tail: float) -> None:
    n = int(Grid(8_000, length, length, min_tail).count(n_samples))
    uncovered = n_samples - n * length
    assert uncovered <= min_tail * length
    assert (n - 1) * length < n_samples
    if n > 1:  # the last one is there for a reason
        assert n_samples - (n - 1) * length > min_tail * length


@given(n_samples=st.integers(1, 5_000), length=st.integers(1, 500), hop=st.integers(1, 900))
def test_no_window_lies_beyond_the_recording(n_samples: int, length: int, hop: int) -> None:
    last = (int(Grid(8_000, length, hop, 0.0).count(n_samples)) - 1) * hop
    assert last < n_samples
    if hop <= length:
        assert last + length >= n_samples


def test_counting_works_on_columns() -> None:
    grid = Grid(44_100, 44_100, 44_100, 0.1)
    found = grid.count_frames(np.array([1, 8_000, 8_799, 8_801, 24_000]), np.array([8_000] * 5))
    assert found.tolist() == [1, 1, 1, 2, 3]


@pytest.mark.parametrize("kind", [("WAV", "PCM_24"), ("FLAC", "PCM_16")])
@pytest.mark.parametrize(("rate", "tolerance"), [(44_100, 0), (192_000, 3e-7), (8_000, 3e-7), (11_127, 5e-6)])
def test_a_segment_is_a_part_of_the_recording_resampled_at_once(
    kind: tuple[str, str], rate: int, tolerance: float
) -> None:
    """Tolerances: float32 sums in another order; soxr's interpolated filter where the rates have no small ratio."""
    samples = noise(rate * 5 // 2, 2)
    decoded, _ = soundfile.read(io.BytesIO(bytes_of(samples, rate, kind)), dtype="float32")
    mono = decoded.mean(axis=1, dtype=np.float32)
    whole = mono if rate == 44_100 else soxr.resample(mono, rate, 44_100, quality="HQ")
    grid = Grid(44_100, 44_100, 44_100, 0.1)
    found = list(segments(Recording(io.BytesIO(bytes_of(samples, rate, kind)), "x"), grid))
    assert [(part.index, part.start_s) for part in found] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert sum(part.source_s for part in found) == pytest.approx(len(samples) / rate)
    for part in found:
        expected = whole[part.index * 44_100 :][:44_100]
        np.testing.assert_allclose(part.samples, expected, atol=tolerance, rtol=0)


def bytes_of(samples: np.ndarray, rate: int, kind: tuple[str, str]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind[0], subtype=kind[1])
    return buffer.getvalue()


@pytest.mark.parametrize("rate", [44_100, 48_000, 11_127])
def test_any_part_of_a_recording_gives_the_same_segments_bit_for_bit(rate: int) -> None:
    samples = noise(rate * 6)
    grid = Grid(44_100, 22_050, 22_050, 0.1)
    every = list(segments(recording(samples, rate), grid))
    assert len(every) == 12
    for first, stop in ((0, 5), (5, 6), (6, 12)):
        for part, same in zip(segments(recording(samples, rate), grid, first, stop), every[first:stop], strict=True):
            np.testing.assert_array_equal(part.samples, same.samples)
            assert (part.index, part.flags, part.content_digest) == (same.index, same.flags, same.content_digest)


def test_overlapping_windows_begin_every_hop() -> None:
    samples = noise(8_000 * 3)
    found = list(segments(recording(samples), Grid(8_000, 8_000, 2_000, 0.0)))
    assert [part.start_s for part in found] == [i / 4 for i in range(9)]
    for part in found:
        np.testing.assert_array_equal(part.samples, samples[part.index * 2_000 :][:8_000])
    assert sum(part.source_s for part in found) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("samples", "flags"),
    [
        (np.zeros(100), ("silent",)),
        (np.full(100, 0.5), ()),
        (np.concatenate([np.zeros(10), np.ones(3)]), ("clipped",)),
        (np.array([0.0, 1.0, 0.0, 1.0, 0.0]), ()),  # peaks, no plateau
        (np.array([1.0]), ()),
    ],
)
def test_flags_say_what_is_odd(samples: np.ndarray, flags: tuple[str, ...]) -> None:
    (found,) = segments(recording(samples), Grid(8_000, 8_000, 8_000, 0.1))
    assert found.flags == flags


def test_the_last_segment_of_a_cut_file_is_truncated() -> None:
    data = bytes_of(noise(80_000), 8_000, ("WAV", "PCM_16"))
    found = list(segments(Recording(io.BytesIO(data[: len(data) * 2 // 3]), "x"), Grid(8_000, 8_000, 8_000, 0.1)))
    assert [part.flags for part in found] == [()] * 6 + [("truncated",)]


def test_segments_before_damage_are_sound() -> None:
    samples = noise(80_000)
    data = bytes_of(samples, 8_000, ("FLAC", "PCM_24"))
    found: list[Segment] = []
    cut = Recording(io.BytesIO(data[: len(data) * 2 // 3]), "x")
    with pytest.raises(DecodeError):
        found.extend(segments(cut, Grid(8_000, 8_000, 8_000, 0.1)))
    assert 4 <= len(found) <= 6
    for part in found:
        np.testing.assert_allclose(part.samples, samples[part.index * 8_000 :][:8_000], atol=2**-23)


def test_flags_belong_to_their_segment() -> None:
    samples = np.concatenate([noise(100), np.zeros(100), np.ones(100)])
    found = segments(recording(samples), Grid(8_000, 100, 100, 0.1))
    assert [part.flags for part in found] == [(), ("silent",), ("clipped",)]


def test_equal_audio_has_equal_digests_whatever_the_file() -> None:
    samples = np.array([0, 100, -100, 5000], np.int16)
    grid = Grid(8_000, 8_000, 8_000, 0.1)
    found = [next(segments(recording(samples, kind=(form, "PCM_16")), grid)) for form in ("WAV", "FLAC", "AIFF")]
    assert len({part.content_digest for part in found}) == 1
    assert next(segments(recording(samples[::-1]), grid)).content_digest != found[0].content_digest


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize(("at", "near", "far"), [(16_000 + 5, 0, 2), (32_000 - 5, 2, 0)])
def test_what_is_no_number_spoils_its_own_segment_alone(bad: float, at: int, near: int, far: int) -> None:
    """Resampling reaches beyond a segment's ends: its neighbours must not notice."""
    samples = noise(16_000 * 3)
    damaged = samples.copy()
    damaged[at] = bad
    grid = Grid(44_100, 44_100, 44_100, 0.1)
    found = list(segments(recording(damaged, 16_000), grid))
    assert [part.finite for part in found] == [True, False, True]
    sound = list(segments(recording(samples, 16_000), grid))
    assert np.isfinite(found[near].samples).all()
    np.testing.assert_array_equal(found[far].samples, sound[far].samples)


def test_too_few_samples_for_one_are_refused() -> None:
    grid = Grid(44_100, 44_100, 44_100, 0.1)
    with pytest.raises(EmptyClipError, match="1 samples at 192000 Hz are too few"):
        next(segments(recording(noise(1), 192_000), grid))


def test_cut_pads_with_zeros() -> None:
    assert segment.cut(np.array([2, 3], np.float32), 4).tolist() == [2, 3, 0, 0]
    assert segment.cut(np.array([1, 2, 3], np.float32), 2).tolist() == [1, 2]
