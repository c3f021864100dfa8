"""Files to mono sound: what is read by byte range must be what libsndfile reads."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audioclf.audio import wav as pcm_wav
from audioclf.audio.recording import Recording, probe
from audioclf.errors import ChangedClipError, DecodeError, EmptyClipError

Wav = Callable[..., Path]

PCM_KINDS = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAVEX", "PCM_16"), ("WAVEX", "PCM_24"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("RF64", "PCM_24"),
]  # fmt: skip
OTHER_KINDS = [("FLAC", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_24"), ("OGG", "VORBIS"), ("WAV", "ULAW")]


def encoded(samples: np.ndarray, rate: int = 8_000, kind: tuple[str, str] = ("WAV", "PCM_16")) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind[0], subtype=kind[1])
    return buffer.getvalue()


def noise(frames: int, channels: int) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-1, 0.99, size=(frames, channels))


def whole(data: bytes, **part: float) -> np.ndarray:
    with Recording(io.BytesIO(data), "x", **part) as recording:
        return recording.read(0, 1 << 40)


@pytest.mark.parametrize("kind", [*PCM_KINDS, *OTHER_KINDS])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_are_those_that_libsndfile_reads(kind: tuple[str, str], channels: int) -> None:
    data = encoded(noise(1001, channels), kind=kind)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    assert (pcm_wav.parse(io.BytesIO(data)) is not None) == (kind in PCM_KINDS)
    np.testing.assert_array_equal(whole(data), expected.mean(axis=1, dtype=np.float32))


@pytest.mark.parametrize("kind", [("WAV", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_windows_that_move_forwards_show_the_same_samples(kind: tuple[str, str], monkeypatch) -> None:
    monkeypatch.setattr("audioclf.audio.recording.BLOCK_VALUES", 64)
    data = encoded(noise(1000, 2), kind=kind)
    all_of_it = whole(data)
    with Recording(io.BytesIO(data), "x") as recording:
        for start, stop in ((0, 10), (5, 300), (300, 420), (700, 990), (980, 2000), (1000, 1001)):
            np.testing.assert_array_equal(recording.read(start, stop), all_of_it[start:stop])
        assert recording.n_frames == 1000


def test_a_part_of_a_file_is_cut_in_seconds() -> None:
    data = encoded(np.arange(8_000) / 10_000, kind=("WAV", "FLOAT"))
    np.testing.assert_allclose(whole(data, start_s=0.25, end_s=0.5), np.arange(2_000, 4_000) / 10_000, rtol=1e-6)
    with pytest.raises(EmptyClipError):
        whole(data, start_s=2.0)


@pytest.mark.parametrize("content", [b"RIFF", b"RIFF\0\0\0\0WAVEfmt ", b"not a sound at all, but some text\n" * 10])
def test_what_is_no_audio_is_a_decode_error_that_names_the_clip(content: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^clips/x\.wav: decode: "):
        Recording(io.BytesIO(content), "clips/x.wav")


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("AIFF", "PCM_16")])
def test_no_samples_make_an_empty_clip(kind: tuple[str, str]) -> None:
    with pytest.raises(EmptyClipError):
        Recording(io.BytesIO(encoded(np.zeros(0), kind=kind)), "x").read(0, 1)


def test_a_file_of_no_bytes_is_said_to_be_empty() -> None:
    with pytest.raises(EmptyClipError, match=r"^x\.wav: decode: the file is empty: 0 bytes$"):
        Recording(io.BytesIO(b""), "x.wav")


def test_a_header_that_promises_too_much_allocates_nothing_and_shows() -> None:
    content = bytearray(encoded(np.zeros(500, np.int16) + 1000))
    content[4:8] = content[40:44] = (0xFFFFFFF0).to_bytes(4, "little")  # 4 GB
    with Recording(io.BytesIO(bytes(content)), "x") as recording:
        assert recording.truncated
        assert recording.n_frames == 500
        assert len(recording.read(0, 1 << 40)) == 500


@pytest.mark.parametrize("promised", [0, 2_000])
@pytest.mark.parametrize("tail", ["", "LIST", "zeros"])
def test_the_header_of_a_recorder_that_died_is_not_believed(promised: int, tail: str) -> None:
    """It says how much was there when the recorder began; other chunks, and what was set aside, are no sound."""
    sound = (noise(20_000, 1)[:, 0] * 20_000).astype(np.int16)
    content = bytearray(encoded(sound))
    whole_header = content[40:44]
    if not tail:
        content[40:44] = struct.pack("<I", promised)
        found = whole(bytes(content))
        np.testing.assert_array_equal(found, sound / np.float32(32_768))
    else:
        more = {"LIST": b"LIST" + struct.pack("<I", 9_000) + b"\x01" * 9_000, "zeros": bytes(9_000)}[tail]
        assert content[40:44] == whole_header
        assert len(whole(bytes(content + more))) == 20_000


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "PCM_24")])
def test_two_wav_files_joined_to_one_are_not_read_as_the_first(kind: tuple[str, str]) -> None:
    data = encoded(noise(9_999, 1), kind=kind)
    with pytest.raises(DecodeError, match="another WAV file follows"):
        Recording(io.BytesIO(data + encoded(noise(20_000, 1))), "x")


def test_a_size_beyond_32_bits_wraps_around(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(encoded(np.zeros(0, np.int16)))  # of a header alone
    frames = 5 << 29
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(struct.pack("<I", 2 * frames - (1 << 32)))
        file.truncate(44 + 2 * frames)  # sparse
        file.seek(-2, os.SEEK_END)
        file.write(struct.pack("<h", 1 << 14))
    with Recording(open(path, "rb"), "x") as recording:
        assert (recording.n_frames, recording.truncated) == (frames, False)
        np.testing.assert_array_equal(recording.read(frames - 2, frames), [0, 0.5])


@pytest.mark.parametrize("kind", [("WAV", "GSM610"), ("AU", "G721_32")])
def test_what_can_t_be_sought_in_is_read(kind: tuple[str, str]) -> None:
    data = encoded(noise(20_000, 1), kind=kind)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    assert len(expected) >= 20_000
    np.testing.assert_array_equal(whole(data), expected)
    np.testing.assert_array_equal(whole(data, start_s=0.5, end_s=1), expected[4000:8000])
    with Recording(io.BytesIO(data), "x") as recording:
        recording.read(0, 10)
        np.testing.assert_array_equal(recording.read(12_000, 12_100), expected[12_000:12_100])


def test_a_header_of_unknown_size_means_until_the_end() -> None:
    content = bytearray(encoded(np.zeros(500, np.int16) + 1000))
    content[4:8] = content[40:44] = (0xFFFFFFFF).to_bytes(4, "little")
    with Recording(io.BytesIO(bytes(content)), "x") as recording:
        assert (recording.n_frames, recording.truncated) == (500, False)


def test_a_cut_stream_is_truncated_once_its_end_is_reached() -> None:
    data = encoded(noise(100_000, 1), kind=("OGG", "VORBIS"))
    with Recording(io.BytesIO(data[: len(data) // 2]), "x") as recording:
        read = recording.read(0, 200_000)
        assert 0 < len(read) < 100_000
        assert recording.n_frames == len(read)


def test_damage_is_an_error_of_what_can_no_longer_be_read() -> None:
    data = encoded(noise(100_000, 1), kind=("FLAC", "PCM_16"))
    with Recording(io.BytesIO(data[: len(data) // 2]), "x") as recording:
        assert len(recording.read(0, 20_000)) == 20_000
        with pytest.raises(DecodeError, match="lost sync"):
            recording.read(20_000, 80_000)


def as_mp3(seconds: float, bitrate_mode: str) -> bytes:
    """Fainter and fainter, so that a variable bit rate varies."""
    sound = noise(round(seconds * 32_000), 1)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound * np.linspace(1, 0.001, len(sound))[:, None] ** 2, 32_000, format="MP3",
                    subtype="MPEG_LAYER_III", bitrate_mode=bitrate_mode, compression_level=0.5)  # fmt: skip
    return buffer.getvalue()


def without_length(mp3: bytes) -> bytes:
    """Without its first frame, which says how many follow."""
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize("seconds", [0.05, 0.5, 2.0, 9.7])
@pytest.mark.parametrize("bitrate_mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_read_to_its_end(seconds: float, bitrate_mode: str) -> None:
    data = as_mp3(seconds, bitrate_mode)
    for tagged in (data, data + b"TAG" + bytes(125), data + b"APETAGEX" + bytes(20_000)):
        assert len(whole(tagged)) == round(seconds * 32_000)


@pytest.mark.parametrize("second", ["mp3", "mp3 without length", "mp3 with tags", "ogg"])
def test_sound_that_the_decoder_does_not_see_is_an_error(second: str) -> None:
    ogg, mp3 = encoded(noise(100_000, 1), kind=("OGG", "VORBIS")), as_mp3(5, "CONSTANT")
    data = {
        "mp3": 2 * mp3,
        "mp3 without length": without_length(as_mp3(10, "VARIABLE")),
        "mp3 with tags": mp3 + b"ID3\x03" + bytes(5) + b"\x0a" + bytes(10) + mp3,
        "ogg": 2 * ogg,
    }[second]
    with Recording(io.BytesIO(data), "x") as recording:
        assert recording.promised_frames > 32_000
        recording.read(0, 16_000)
        with pytest.raises(DecodeError, match="more sound follows"):
            recording.read(16_000, 1 << 40)


@pytest.mark.parametrize("rate", [1, 99, 1_000_001, 4_000_000_000])
def test_a_rate_that_is_no_sounds_is_not_believed(rate: int) -> None:
    content = bytearray(encoded(np.zeros(100)))
    content[24:28] = rate.to_bytes(4, "little")
    for read in (Recording, probe):
        with pytest.raises(DecodeError, match=f"a sample rate of {rate:,} Hz is not believed"):
            read(io.BytesIO(bytes(content)), "x")


def test_a_file_that_became_shorter_while_it_was_read_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(40_000, 1)))
    with Recording(open(path, "rb"), "x") as recording:
        recording.read(0, 10)
        os.truncate(path, 20_000)
        with pytest.raises(ChangedClipError, match="shorter"):
            recording.read(10, 40_000)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_a_header_with_random_bytes_never_raises(noise_bytes: bytes, at: int) -> None:
    content = encoded(np.zeros(50))
    damaged = content[:at] + noise_bytes + content[at + len(noise_bytes) :]
    layout = pcm_wav.parse(io.BytesIO(damaged))
    if layout is not None:
        assert 0 <= layout.frames * layout.frame_bytes <= len(damaged)


def test_chunks_before_the_sound_are_passed_over() -> None:
    content = encoded(np.array([0.25, -0.5]))
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert whole(content[:12] + odd + content[12:]).tolist() == [0.25, -0.5]


def test_probe_reads_the_header(wav: Wav) -> None:
    with open(wav(np.zeros((4_000, 2))), "rb") as file:
        info = probe(file, "x")
    assert (info.duration_s, info.sample_rate, info.channels) == (0.5, 8_000, 2)


@pytest.mark.parametrize(
    ("samples", "run"),
    [
        ([0.0, 1.0, 1.0, 1.0, 0.0], 3),
        ([0.0, 1.0, 0.0, -1.0, 1.0], 2),
        ([0.5, 0.9, 0.99], 0),
        ([[0.0, 1.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], 3),  # in any channel
    ],
)
def test_full_scale_runs_are_seen_before_channels_are_mixed(samples: list, run: int) -> None:
    with Recording(io.BytesIO(encoded(np.array(samples), kind=("WAV", "FLOAT"))), "x") as recording:
        recording.read(0, 100)
        assert recording.longest_full_scale_run(0, 100) == run
        assert recording.longest_full_scale_run(4, 100) <= 1


def test_a_nan_does_not_hide_full_scale_beside_it() -> None:
    samples = np.zeros((10, 2))
    samples[2:5, 0], samples[7, 1] = 1, np.nan
    with Recording(io.BytesIO(encoded(samples, kind=("WAV", "FLOAT"))), "x") as recording:
        recording.read(0, 10)
        assert recording.longest_full_scale_run(0, 10) == 3
