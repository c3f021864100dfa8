"""Decoding, segmenting, augmenting: one clip from bytes to samples."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio import augment, segment
from audioclf.audio.decode import decode, probe, resample
from audioclf.audio.frontend import get_front_end, log_mel
from audioclf.errors import ConfigError, DecodeError, EmptyClipError

Wav = Callable[..., Path]


def test_pcm16_becomes_float_of_full_scale_one(wav: Wav) -> None:
    audio = decode(io.BytesIO(wav(np.array([0, 16384, -32768], np.int16)).read_bytes()), "x")
    assert audio.samples.tolist() == [0.0, 0.5, -1.0]
    assert audio.samples.dtype == np.float32
    assert audio.sample_rate == 8_000


def test_channels_are_averaged(wav: Wav) -> None:
    audio = decode(io.BytesIO(wav(np.array([[0.5, -0.25], [0.25, 0.25]]), subtype="FLOAT").read_bytes()), "x")
    assert audio.samples.tolist() == [0.125, 0.25]


def test_a_part_of_a_file_is_cut_in_seconds(wav: Wav) -> None:
    path = wav(np.arange(8_000) / 10_000, subtype="FLOAT")
    audio = decode(io.BytesIO(path.read_bytes()), "x", start_s=0.25, end_s=0.5)
    np.testing.assert_allclose(audio.samples, np.arange(2_000, 4_000) / 10_000, rtol=1e-6)


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
def test_flags_say_what_is_odd(wav: Wav, samples: np.ndarray, flags: tuple[str, ...]) -> None:
    assert decode(io.BytesIO(wav(samples, subtype="FLOAT").read_bytes()), "x").flags == flags


def test_equal_audio_has_equal_digests_whatever_the_file(wav: Wav) -> None:
    samples = np.array([0, 100, -100, 5000], np.int16)
    digests = {
        decode(io.BytesIO(wav(samples, name=name).read_bytes()), name).content_digest for name in ("a.wav", "b.flac")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not a sound at all, but some text\n" * 10])
def test_what_is_no_audio_is_a_decode_error_that_names_the_clip(content: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^clips/x\.wav: decode: "):
        decode(io.BytesIO(content), "clips/x.wav")


def test_no_samples_and_no_numbers_are_told_apart(wav: Wav) -> None:
    with pytest.raises(EmptyClipError):
        decode(io.BytesIO(wav(np.zeros(0)).read_bytes()), "x")
    with pytest.raises(DecodeError, match="NaN"):
        decode(io.BytesIO(wav(np.array([0.0, np.nan]), subtype="FLOAT").read_bytes()), "x")


def test_a_header_that_promises_too_much_allocates_nothing(wav: Wav) -> None:
    content = bytearray(wav(np.zeros(500, np.int16) + 1000).read_bytes())
    content[4:8] = content[40:44] = (0xFFFFFFF0).to_bytes(4, "little")  # 4 GB
    audio = decode(io.BytesIO(bytes(content)), "x")
    assert len(audio.samples) == 500


def test_probe_reads_the_header(wav: Wav) -> None:
    with open(wav(np.zeros((4_000, 2))), "rb") as file:
        info = probe(file, "x")
    assert (info.duration_s, info.sample_rate, info.channels) == (0.5, 8_000, 2)


def test_resampling_keeps_a_tone() -> None:
    def tone(rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)

    changed = resample(tone(8_000), 8_000, 44_100)
    assert len(changed) == 44_100
    np.testing.assert_allclose(changed[4_410:-4_410], tone(44_100)[4_410:-4_410], atol=1e-3)


@given(
    n_samples=st.integers(1, 5_000),
    length=st.integers(1, 1_000),
    min_tail=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_segments_cover_all_but_a_short_tail(n_samples: int, length: int, min_tail: float) -> None:
    starts = segment.segment_starts(n_samples, length, length, min_tail)
    assert starts == [i * length for i in range(len(starts))]
    uncovered = n_samples - (starts[-1] + length)
    assert uncovered <= min_tail * length
    assert starts[-1] < n_samples
    if len(starts) > 1:  # the last one is there for a reason
        assert n_samples - starts[-1] > min_tail * length


@given(n_samples=st.integers(1, 5_000), length=st.integers(1, 500), hop=st.integers(1, 900))
def test_no_window_lies_beyond_the_recording(n_samples: int, length: int, hop: int) -> None:
    starts = segment.segment_starts(n_samples, length, hop, 0.0)
    assert max(starts) < n_samples
    if hop <= length:
        assert starts[-1] + length >= n_samples


def test_cut_pads_with_zeros_and_counts_what_is_real() -> None:
    padded, n_valid = segment.cut(np.array([1, 2, 3], np.float32), 1, 4)
    assert padded.tolist() == [2, 3, 0, 0]
    assert n_valid == 2


@given(n_samples=st.integers(1, 20_000))
def test_frames_follow_the_formula(n_samples: int) -> None:
    spec = get_front_end("logmel44k")
    picture = log_mel(np.zeros(n_samples, np.float32), spec)
    assert picture.shape == (128, 1 + n_samples // 1024) == (128, spec.n_frames(n_samples))
    np.testing.assert_allclose(picture, -100, rtol=1e-6)  # 10 · log10(1e-10)


def test_a_full_scale_tone_has_the_power_of_its_spectrum() -> None:
    """A sine at a bin's centre: |X| = n_fft / 4 under a Hann window, spread 1/4 and 1/4 in power to its neighbours."""
    spec = get_front_end("logmel44k")
    samples = np.sin(2 * np.pi * 100 * np.arange(1024 * 8) / 1024).astype(np.float32)
    from audioclf.audio.frontend import mel_filters

    power = np.zeros(513)
    power[100], power[99], power[101] = 256.0**2, 128.0**2, 128.0**2
    expected = 10 * np.log10(np.maximum(mel_filters(spec) @ power, 1e-10))
    frame = log_mel(samples, spec)[:, 4]
    audible = expected > 0
    assert audible.any()
    np.testing.assert_allclose(frame[audible], expected[audible], atol=0.01)


def test_an_unknown_front_end_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="logmel44k"):
        get_front_end("logmel48k")


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


def test_other_formats_decode_to_what_their_library_says(wav: Wav) -> None:
    rng = np.random.default_rng(0)
    path = wav(rng.normal(scale=0.1, size=(16_000, 2)), 16_000, "clip.ogg", "VORBIS")
    expected, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_allclose(decode(io.BytesIO(path.read_bytes()), "x").samples, expected.mean(1), atol=1e-6)
