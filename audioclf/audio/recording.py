"""An audio file, or a part of one, as mono sound that is read forwards, in bounded memory.

PCM WAV is read by byte range and may start anywhere; every other format is libsndfile's and is read as a stream.
"""

import io
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import soundfile

from audioclf.audio import wav
from audioclf.errors import ChangedClipError, DecodeError, EmptyClipError

BLOCK_VALUES = 1 << 22
"""Samples × channels decoded at a time (16 MB as float32): a header that promises more than the file holds, or very
many channels, allocates no more."""

FULL_SCALE = 0.999

RATES_HZ = (100, 1_000_000)
"""Lowest and highest sample rate that is believed: beyond them a header is broken, and a second of it would be next to
nothing or more than a worker holds."""

UNKNOWN_FRAMES = 1 << 62
"""libsndfile promises more than this where a stream does not say how long it is."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says, and for PCM WAV what is there."""

    duration_s: float | None
    """None where the header does not say."""
    sample_rate: int
    channels: int


class _Decoder(Protocol):
    """Frames of a file, one after the other."""

    sample_rate: int
    channels: int
    frames: int
    """As promised; fewer may come."""
    exact: bool
    """Whether `frames` is what will come."""
    truncated: bool
    """Whether fewer frames are there than the header promises, as far as known."""

    def seek(self, frame: int) -> None: ...

    def read(self, n: int) -> np.ndarray:
        """[≤ n, channels] float32, fewer only where the file ends."""
        ...

    def close(self) -> None: ...


class _PcmWav:
    exact = True

    def __init__(self, file: BinaryIO, layout: wav.PcmLayout, name: str):
        self._file, self._layout, self._name, self._at = file, layout, name, 0
        self.sample_rate, self.channels, self.frames = layout.sample_rate, layout.channels, layout.frames
        self.truncated = layout.frames < layout.promised_frames

    def seek(self, frame: int) -> None:
        self._at = frame

    def read(self, n: int) -> np.ndarray:
        layout = self._layout
        n = max(0, min(n, layout.frames - self._at))
        self._file.seek(layout.data_offset + self._at * layout.frame_bytes)
        data = self._file.read(n * layout.frame_bytes)
        if len(data) < n * layout.frame_bytes:
            raise ChangedClipError(self._name, "decode", "the file became shorter while it was read")
        self._at += n
        return wav.to_float32(data, layout)

    def close(self) -> None:
        self._file.close()


class _LibSndFile:
    exact = False

    def __init__(self, file: BinaryIO, name: str):
        self._file, self._name, self._at = file, name, 0
        try:
            self._sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError as error:
            self._raise_what_the_store_said()
            n_bytes = file.seek(0, io.SEEK_END)
            file.close()
            if n_bytes == 0:
                raise EmptyClipError(name, "decode", "the file is empty: 0 bytes") from error
            raise DecodeError(name, "decode", _reason(error)) from error
        self.sample_rate, self.channels, self.frames = (
            self._sound.samplerate, self._sound.channels, self._sound.frames,
        )  # fmt: skip
        self.truncated = False

    def seek(self, frame: int) -> None:
        if not self._sound.seekable():  # GSM 6.10, G.72x: read on to there
            while self._at < frame and len(self.read(min(frame - self._at, max(1, BLOCK_VALUES // self.channels)))):
                pass
            return
        try:
            self._at = self._sound.seek(min(frame, self.frames)) if frame else 0
        except soundfile.LibsndfileError as error:
            self._raise_what_the_store_said()
            raise DecodeError(self._name, "decode", _reason(error)) from error

    def read(self, n: int) -> np.ndarray:
        try:
            # Where a broken stream says that it is beyond its own end, soundfile takes the rest for a negative number.
            left = max(0, self.frames - self._sound.tell()) if self._sound.seekable() else n
            pcm = self._sound.read(min(n, left), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            self._raise_what_the_store_said()
            raise DecodeError(self._name, "decode", _reason(error)) from error
        self._at += len(pcm)
        if len(pcm) < n:
            self._raise_what_the_store_said()
            self.truncated = self._at < self.frames < UNKNOWN_FRAMES
        if self._at >= self.frames and self._more_follows():
            raise DecodeError(
                self._name, "decode", "more sound follows than libsndfile sees (an MP3 that does not say how long it "
                "is, or several files joined to one); convert the file, as with ffmpeg or sox, or take it apart"
            )  # fmt: skip
        return pcm

    def _more_follows(self) -> bool:
        """Whether what the decoder has left unread is sound: libsndfile estimates the length of an MP3 that does not
        say it, and stops where the first of several Ogg or MP3 files ends."""
        at = self._file.tell()
        n_bytes = self._file.seek(0, io.SEEK_END)
        self._file.seek(at)
        if wav.is_stray(n_bytes - at, n_bytes):
            return False
        begin = self._file.read(wav.STRAY_BYTES)
        self._file.seek(at)
        if self._sound.format == "OGG":
            return b"OggS" in begin
        is_frame = begin[0] == 0xFF and begin[1] >= 0xE0
        return self._sound.format == "MP3" and (is_frame or begin.startswith(b"ID3"))

    def _raise_what_the_store_said(self) -> None:
        """libsndfile takes an exception of the file it reads for the file's end; the file raises it again."""
        at = self._file.tell()
        self._file.seek(0, io.SEEK_END)
        self._file.seek(at)

    def close(self) -> None:
        self._sound.close()
        self._file.close()


class Recording:
    """Mono sound of a file, or of its part from start_s to end_s: the mean of its channels, float32 in ±1.

    Args:
        file: seekable; closed with the recording.
        name: for messages.
        start_s, end_s: of the part, in seconds.

    Raises:
        DecodeError: not audio, or a format libsndfile lacks.
        EmptyClipError: there are no samples.
    """

    def __init__(self, file: BinaryIO, name: str, start_s: float | None = None, end_s: float | None = None):
        self.name = name
        self._decoder = _open(file, name)
        self.sample_rate, self.channels = self._decoder.sample_rate, self._decoder.channels
        promised = self._decoder.frames
        self._first = 0 if start_s is None else min(round(start_s * self.sample_rate), promised)
        last = promised if end_s is None else min(round(end_s * self.sample_rate), promised)
        self._promised = max(0, last - self._first)
        self._ends_with_file = last == promised
        self.n_frames: int | None = self._promised if self._decoder.exact else None
        """Frames of the part; None until the end of a stream is reached."""
        self.promised_frames = self._promised
        """Frames of the part as the header says."""
        self._at = 0  # of the buffer's first frame, in the part
        self._mono = np.empty(0, np.float32)
        self._full_scale = np.empty(0, np.int64)
        if self._promised == 0 or self.n_frames == 0:
            self.close()
            where = "the file holds no samples" if promised == 0 else "the part lies beyond the file's end"
            raise EmptyClipError(name, "decode", where)
        if self._first:
            self._decoder.seek(self._first)

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._decoder.close()

    @property
    def truncated(self) -> bool:
        """Whether the file ends before its header says; of a stream, known once its end is reached."""
        return self._decoder.truncated and self._ends_with_file

    def read(self, start: int, stop: int) -> np.ndarray:
        """[≤ stop − start] float32: frames from `start`, which never decreases from one call to the next.

        Raises:
            DecodeError: damaged beyond reading.
        """
        end = self._at + len(self._mono)
        if self.n_frames is not None and start >= self.n_frames:
            return self._mono[:0]
        if start >= end:
            self._at, self._mono = start, self._mono[:0]
            if start > end:
                self._decoder.seek(self._first + start)
        elif start > self._at:
            self._mono, self._at = self._mono[start - self._at :], start
        self._full_scale = self._full_scale[self._full_scale >= start]
        stop = min(stop, self._promised)
        blocks = [self._mono] if len(self._mono) else []
        end = self._at + len(self._mono)
        while end < stop:
            wanted = min(stop - end, max(1, BLOCK_VALUES // self.channels))
            pcm = self._decoder.read(wanted)
            blocks.append(self._mix(pcm, end))
            end += len(pcm)
            if len(pcm) < wanted:
                break
        if end < stop or end == self._promised:
            self.n_frames = end
        if len(blocks) != 1 or blocks[0] is not self._mono:
            self._mono = blocks[0] if len(blocks) == 1 else np.concatenate([np.empty(0, np.float32), *blocks])
        return self._mono[: max(0, stop - start)]

    def longest_full_scale_run(self, start: int, stop: int) -> int:
        """Neighbouring frames, of those in [start, stop) read last, in which a channel is at full scale."""
        if self.channels == 1:
            inside = np.flatnonzero(np.abs(self._mono[max(0, start - self._at) : stop - self._at]) >= FULL_SCALE)
        else:
            inside = self._full_scale[(self._full_scale >= start) & (self._full_scale < stop)]
        if len(inside) == 0:
            return 0
        breaks = np.flatnonzero(np.diff(inside) != 1)
        edges = np.concatenate([[-1], breaks, [len(inside) - 1]])
        return int(np.diff(edges).max())

    def _mix(self, pcm: np.ndarray, at: int) -> np.ndarray:
        """The mean of the channels; frames at full scale are noted before they are averaged away."""
        if self.channels == 1:
            return pcm[:, 0]
        # A NaN makes the comparison false, and must not hide its neighbours.
        if len(pcm) and not max(float(pcm.max()), -float(pcm.min())) < FULL_SCALE:
            loud = (np.abs(pcm) >= FULL_SCALE).any(axis=1)
            self._full_scale = np.concatenate([self._full_scale, np.flatnonzero(loud) + at])
        return pcm.mean(axis=1, dtype=np.float32)


def probe(file: BinaryIO, name: str) -> AudioInfo:
    """What a file's header says.

    Raises:
        DecodeError: not audio that can be read.
    """
    decoder = _open(file, name)
    try:
        known = decoder.frames < UNKNOWN_FRAMES
        duration_s = decoder.frames / decoder.sample_rate if known else None
        return AudioInfo(duration_s, decoder.sample_rate, decoder.channels)
    finally:
        decoder.close()


def _open(file: BinaryIO, name: str) -> _Decoder:
    try:
        layout = wav.parse(file)
    except wav.UnclearWavError as error:
        file.close()
        raise DecodeError(name, "decode", str(error)) from error
    if layout is not None:
        decoder: _Decoder = _PcmWav(file, layout, name)
    else:
        file.seek(0, io.SEEK_SET)
        decoder = _LibSndFile(file, name)
    if not RATES_HZ[0] <= decoder.sample_rate <= RATES_HZ[1]:
        decoder.close()
        raise DecodeError(name, "decode", f"a sample rate of {decoder.sample_rate:,} Hz is not believed")
    return decoder


_REASONS = {
    "not a regular file": "no audio format that libsndfile knows",
    "Format not recognised": "no audio format that libsndfile knows",
    "unimplemented format": "an audio format that libsndfile knows, with samples that it can not read",
    "psf_fseek() failed": "damaged, or its format changes in mid-stream",
}
"""libsndfile's words that would mislead or puzzle, and what they mean."""


def _reason(error: soundfile.LibsndfileError) -> str:
    for words, meaning in _REASONS.items():
        if words in error.error_string:
            return meaning
    return error.error_string.removeprefix("Error : ").strip().rstrip(".")
