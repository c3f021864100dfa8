"""PCM WAV files read by byte range: the common case, faster than through a decoder and free to start anywhere.

Only what is beyond doubt is read here (RIFF, RF64 and BW64; integers of 8 to 32 bits and floats, plain or
extensible); everything else is libsndfile's.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

RIFFS = b"RIFF", b"RF64", b"BW64"
PCM, IEEE_FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
# An extensible header's format: these two bytes of the tag, then the same fourteen for all.
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

UNKNOWN_SIZE = 0xFFFFFFFF
"""A writer that could not go back to its header leaves this: sound until the file ends."""

STRAY_BYTES, STRAY_SHARE = 4096, 0.01
"""Of a file, that may lie behind the end of its sound for whatever reason."""

MAX_CHUNKS = 1000
"""A header of more chunks than this is not one."""

# Bytes a value → how its bits become float32 in ±1, exactly as libsndfile does it.
_INTEGERS = {1: np.dtype("u1"), 2: np.dtype("<i2"), 3: np.dtype("u1"), 4: np.dtype("<i4")}
_FLOATS = {4: np.dtype("<f4"), 8: np.dtype("<f8")}


class UnclearWavError(Exception):
    """A file that decoders read in different ways, most of them to noise or in part."""


@dataclass(frozen=True)
class PcmLayout:
    """Where the samples of a PCM WAV file lie.

    Attributes:
        sample_rate: Hz.
        channels: of a frame.
        value_bytes: bytes of one channel's sample.
        is_float: IEEE floats, else integers.
        data_offset: byte of the first frame.
        frames: that are in the file.
        promised_frames: by the header; more than `frames` if the file was cut.
    """

    sample_rate: int
    channels: int
    value_bytes: int
    is_float: bool
    data_offset: int
    frames: int
    promised_frames: int

    @property
    def frame_bytes(self) -> int:
        return self.channels * self.value_bytes


def parse(file: BinaryIO) -> PcmLayout | None:
    """The layout of a PCM WAV file; None for every other file, and where its header leaves a doubt.

    Raises:
        UnclearWavError: nobody knows how to read it.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    riff = file.read(12)
    if len(riff) < 12 or riff[:4] not in RIFFS or riff[8:] != b"WAVE":
        return None
    data_size_64 = form = None
    at = 12
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return None
        name, length = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"ds64":
            data_size_64 = _unpack("<Q", file.read(16)[8:])
        elif name == b"fmt ":
            form = file.read(min(length, 40))
        elif name == b"data":
            if length == UNKNOWN_SIZE and data_size_64 is not None:
                length = data_size_64
            elif length != UNKNOWN_SIZE and size - at - 8 > length:
                # Plain RIFF has 32 bits for it: what is longer wraps around.
                length += (size - at - 8 - length) // (1 << 32) * (1 << 32)
            if length != UNKNOWN_SIZE and _sound_follows(file, at + 8 + length, size):
                length = UNKNOWN_SIZE
            return None if form is None or length == 0 else _layout(form, at + 8, length, size)
        at += 8 + length + length % 2
    return None


def _sound_follows(file: BinaryIO, end: int, size: int) -> bool:
    """Whether what lies behind the sound's end by its header is sound, too: a recorder that dies leaves the size that
    it wrote when it began. Other chunks begin with their names, and what was set aside and never written holds zeros.

    Raises:
        UnclearWavError: it is another WAV file.
    """
    if is_stray(size - end, size):
        return False
    file.seek(end)
    begin = file.read(STRAY_BYTES)
    for pad in (0, 1):
        name, length = begin[pad : pad + 4], struct.unpack("<I", begin[pad + 4 : pad + 8])[0]
        if name in RIFFS and begin[pad + 8 : pad + 12] == b"WAVE":
            raise UnclearWavError("another WAV file follows the first one's sound; take them apart")
        if name.startswith(b"ID3") or (_is_name(name) and length <= size - end - pad - 8):
            return False
    return any(begin)


def is_stray(left: int, size: int) -> bool:
    """Whether so few bytes of a file are left behind its sound that they need not be sound: tags, a chunk that was cut,
    frames of an MP3 that hold the encoder's padding."""
    return left <= max(STRAY_BYTES, STRAY_SHARE * size)


def _is_name(name: bytes) -> bool:
    return all(0x20 <= byte < 0x7F for byte in name)


def _unpack(form: str, data: bytes) -> int | None:
    return struct.unpack(form, data)[0] if len(data) == struct.calcsize(form) else None


def _layout(form: bytes, data_offset: int, data_bytes: int, file_bytes: int) -> PcmLayout | None:
    if len(form) < 16:
        return None
    tag, channels, sample_rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == EXTENSIBLE:
        if len(form) < 40 or form[26:40] != GUID_TAIL or struct.unpack("<H", form[18:20])[0] != bits:
            return None
        tag = struct.unpack("<H", form[24:26])[0]
    if tag == PCM and bits == 24 and frame_bytes == 4 * channels:
        raise UnclearWavError("samples of 24 bits in 4 bytes each: the header does not say in which 3 of them")
    kinds = {PCM: _INTEGERS, IEEE_FLOAT: _FLOATS}.get(tag, {})
    if bits % 8 or bits // 8 not in kinds or not channels or not sample_rate or frame_bytes != channels * bits // 8:
        return None
    there = max(0, file_bytes - data_offset)
    promised = there if data_bytes == UNKNOWN_SIZE else data_bytes
    return PcmLayout(
        sample_rate, channels, bits // 8, tag == IEEE_FLOAT, data_offset,
        frames=min(there, promised) // frame_bytes, promised_frames=promised // frame_bytes,
    )  # fmt: skip


def to_float32(data: bytes | bytearray | memoryview, layout: PcmLayout) -> np.ndarray:
    """[n, channels] float32, full scale ±1, from the bytes of n frames."""
    width = layout.value_bytes
    if layout.is_float:
        values = np.frombuffer(data, _FLOATS[width]).astype(np.float32)
    elif width == 3:
        # The three bytes on top of an int32, the lowest byte zero.
        words = np.zeros((len(data) // 3, 4), np.uint8)
        words[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = words.view("<i4").reshape(-1).astype(np.float32)
        values *= np.float32(2.0**-31)
    else:
        values = np.frombuffer(data, _INTEGERS[width]).astype(np.float32)
        if width == 1:
            values -= 128
        values *= np.float32(2.0 ** (1 - 8 * width))
    return values.reshape(-1, layout.channels)
