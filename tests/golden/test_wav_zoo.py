"""Odd and broken audio of many origins: each file has a decided outcome, checked against a second decoder."""

import csv
import shutil
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from audioclf import layouts, manifest, storage
from audioclf.audio.frontend import get_front_end
from audioclf.audio.recording import Recording
from audioclf.errors import ClipError
from audioclf.units import Unit
from audioclf.windows import Part, Window, WindowCutter, Windows

OUTCOMES = Path(__file__).with_name("wav_zoo_outcomes.csv")
"""Columns: outcome is ok or the error; says: a part of its message; second: who else can read it; why not, if none."""

with open(OUTCOMES, newline="") as table:
    ZOO = {row["file"]: row for row in csv.DictReader(table)}

TOLERANCE = {"wavefile__4bit-imaadpcm-8kHz-noBext-mono.wav": 1e-3}  # decoders round ADPCM's steps differently

IN_WINDOWS = {"flac-test-files__01_-_wrong_max_blocksize.flac": "DecodeError"}
"""Its header says that blocks are smaller than they are: libsndfile reads it whole, and loses its place in between."""


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


def test_the_zoo_as_an_archive(shared: Path, tmp_path: Path) -> None:
    """What can be read is cut into windows, however odd; the rest is rejected for the reason in the table."""
    files = layouts.list_audio((shared / "data" / "wav_zoo").as_uri()).files
    manifest.write(manifest.to_table(layouts.from_flat(files)), storage.to_uri(str(tmp_path / "m.parquet")))
    windows = Windows(storage.to_uri(str(tmp_path / "m.parquet")), get_front_end("efficientat32k"), 1.0, 1.0)
    cutter = WindowCutter(windows)
    heard: Counter[str] = Counter()
    parts: dict[str, Part] = {}
    for item in cutter(Unit(0, 0, len(files))):
        name = Path(storage.display(item.recording["uri"])).name
        if isinstance(item, Window):
            assert np.isfinite(item.log_mel).all()
            heard[name] += 1
        else:
            parts[name] = item
    cutter.close()
    assert parts.keys() == {name for name in ZOO if Path(name).suffix.lower() in layouts.AUDIO_SUFFIXES}
    for name, part in parts.items():
        row = {**ZOO[name], "outcome": IN_WINDOWS.get(name, ZOO[name]["outcome"])}
        reasons = {reject["error"] for reject in part.rejects}
        assert part.windows == heard[name]
        if row["outcome"] == "ok":
            assert (part.windows, reasons) == (-(-int(row["frames"]) // int(row["sample_rate"])), set()), name
            assert ("truncated" in part.flags) == (row["truncated"] == "yes"), name
        else:
            assert reasons == {row["outcome"]}, name  # after some windows, where a stream breaks off
