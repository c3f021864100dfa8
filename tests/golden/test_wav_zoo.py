"""Odd and broken audio of many origins: each file has a decided outcome, checked against a second decoder."""

import csv
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from audioclf.audio.recording import Recording
from audioclf.errors import ClipError

OUTCOMES = Path(__file__).with_name("wav_zoo_outcomes.csv")
"""Columns: outcome is ok or the error; says: a part of its message; second: who else can read it; why not, if none."""

with open(OUTCOMES, newline="") as table:
    ZOO = {row["file"]: row for row in csv.DictReader(table)}

TOLERANCE = {"wavefile__4bit-imaadpcm-8kHz-noBext-mono.wav": 1e-3}  # decoders round ADPCM's steps differently


def test_the_table_names_every_file(shared: Path) -> None:
    files = {path.name for path in (shared / "data" / "wav_zoo").iterdir() if path.name != "manifest.csv"}
    assert set(ZOO) == files
    assert len(files) == 68


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row["outcome"] != "ok"])
def test_what_can_not_be_read_says_why(shared: Path, name: str) -> None:
    with pytest.raises(ClipError) as raised, Recording(open(shared / "data/wav_zoo" / name, "rb"), name) as recording:
        recording.read(0, 1 << 40)
    assert type(raised.value).__name__ == ZOO[name]["outcome"]
    assert ZOO[name]["says"] in raised.value.message


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row["outcome"] == "ok"])
def test_what_can_be_read_is_read_right(shared: Path, name: str) -> None:
    row, path = ZOO[name], shared / "data" / "wav_zoo" / name
    with Recording(open(path, "rb"), name) as recording:
        mono = recording.read(0, 1 << 40)
        assert (len(mono), recording.sample_rate, recording.channels, recording.truncated) == (
            int(row["frames"]), int(row["sample_rate"]), int(row["channels"]), row["truncated"] == "yes",
        )  # fmt: skip
    if row["second"] == "scipy":
        rate, expected = _by_scipy(path)
        assert rate == recording.sample_rate
    elif row["second"] == "ffmpeg":
        if shutil.which("ffmpeg") is None:
            pytest.skip("needs ffmpeg as the second decoder")
        expected = _by_ffmpeg(path, recording.channels)
    else:
        assert row["says"]  # why there is no second decoder
        return
    assert len(expected) == len(mono)
    np.testing.assert_allclose(mono, expected, atol=TOLERANCE.get(name, 1e-6), rtol=1e-6)


def _by_scipy(path: Path) -> tuple[int, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that it does not know
        rate, samples = wavfile.read(path)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float64) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1)
    return rate, samples.reshape(len(samples), -1).astype(np.float32).mean(axis=1)


def _by_ffmpeg(path: Path, channels: int) -> np.ndarray:
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-c:a", "pcm_f32le", "-"],
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    return np.frombuffer(raw, np.float32).reshape(-1, channels).mean(axis=1)
