"""Files that a collection holds one day: broken, odd, with names that scripts trip over, and one that kills."""

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from audioclf import storage

from .conftest import Jobs

RATE = 16_000


def extract(
    jobs: Jobs, folder: Path, tmp_path: Path, *flags: str, manifest_flags: Sequence[str] = ()
) -> tuple[Path, str]:
    """The run directory of a folder's files, and what the manifest job said."""
    manifest, run = tmp_path / "m.parquet", tmp_path / "run"
    said = jobs.succeed(
        "manifest", "--input", str(folder), "--output", str(manifest), "--layout", "flat", *manifest_flags
    )
    jobs.succeed("extract", "--manifest", str(manifest), "--output", str(run), "--max-reject-fraction", "1", *flags)
    return run, said


def rows(run: Path, kind: str) -> dict[str, list[dict]]:
    """The rows of the shards or of the rejects, by file name."""
    found: dict[str, list[dict]] = {}
    for path in (run / kind).glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            path_of_clip = storage.local_path(row["uri"])
            assert path_of_clip is not None
            found.setdefault(path_of_clip.name, []).append(row)
    return found


def test_every_file_of_the_zoo_is_in_the_shards_or_the_rejects(jobs: Jobs, shared: Path, tmp_path: Path) -> None:
    run, said = extract(jobs, shared / "data" / "wav_zoo", tmp_path)
    assert "1 .csv" in said
    with open(Path(__file__).parents[1] / "golden" / "wav_zoo_outcomes.csv", newline="") as file:
        outcomes = {row["file"]: row["outcome"] for row in csv.DictReader(file)}
    written, rejected = rows(run, "data"), rows(run, "rejects")
    assert set(written) - set(rejected) == {name for name, outcome in outcomes.items() if outcome == "ok"}
    assert {name: row["error"] for name, (row,) in rejected.items()} == {
        name: outcome for name, outcome in outcomes.items() if outcome != "ok"
    }
    assert all(row["message"] and row["stage"] == "decode" for (row,) in rejected.values())
    clips = json.loads((run / "summary.json").read_text())["total"]["clips"]
    # A stream that is damaged later on has sound segments before that: a partial clip.
    assert clips["partial"] == len(set(written) & set(rejected)) <= 3
    assert clips["planned"] == 68 == clips["ok"] + clips["partial"] + clips["rejected"]


def write(path: Path, samples: np.ndarray, form: str = "WAV", subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.fsencode(path), "wb") as file:
        soundfile.write(file, samples, RATE, format=form, subtype=subtype)


def odd_files(folder: Path) -> dict[str, Callable[[Path], None]]:
    sound = np.random.default_rng(0).normal(scale=0.1, size=RATE)
    nan, inf = sound.copy(), sound.copy()
    nan[500], inf[500] = np.nan, np.inf

    def claims_four_gb(path: Path) -> None:
        write(path, sound[:500])
        content = bytearray(path.read_bytes())
        content[4:8] = content[40:44] = (0xFFFFFFF0).to_bytes(4, "little")
        path.write_bytes(content)

    return {
        "plain.wav": lambda path: write(path, sound),
        "w64.w64": lambda path: write(path, sound, "W64"),
        "rf64.wav": lambda path: write(path, sound, "RF64"),
        "extensible.wav": lambda path: write(path, sound, "WAVEX"),
        "nan.wav": lambda path: write(path, nan, subtype="FLOAT"),
        "inf.wav": lambda path: write(path, inf, subtype="FLOAT"),
        "silent.wav": lambda path: write(path, np.zeros(RATE)),
        "clipped.wav": lambda path: write(path, np.sign(sound)),
        "no_bytes.wav": lambda path: path.touch(),
        "no_frames.wav": lambda path: write(path, np.zeros(0)),
        "claims_4gb.wav": claims_four_gb,
        "with space.wav": lambda path: write(path, sound),
        "quotes'\".wav": lambda path: write(path, sound),
        "new\nline.wav": lambda path: write(path, sound),
        "emoji🎧%20.wav": lambda path: write(path, sound),
        os.fsdecode(b"not-utf8-\xff\xfe.wav"): lambda path: write(path, sound),
    }


FLAGS = {"silent.wav": ["silent"], "clipped.wav": ["clipped"], "claims_4gb.wav": ["truncated"]}
REJECTED = {
    "nan.wav": "DecodeError", "inf.wav": "DecodeError",
    "no_bytes.wav": "EmptyClipError", "no_frames.wav": "EmptyClipError",
}  # fmt: skip


def test_odd_files_and_odd_names_each_have_their_outcome(jobs: Jobs, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    files = odd_files(folder)
    for name, make in files.items():
        make(folder / name)
    (folder / "folder.wav").mkdir()
    run, _ = extract(jobs, folder, tmp_path, "--segment-s", "1")
    written, rejected = rows(run, "data"), rows(run, "rejects")
    assert {name: row["error"] for name, (row,) in rejected.items()} == REJECTED
    assert set(written) == set(files) - set(REJECTED)
    assert {name: row["flags"] for name, (row,) in written.items() if row["flags"]} == FLAGS
    same = [row["log_mel"] for name, (row,) in written.items() if name not in FLAGS]
    assert len(same) == 9
    assert all(picture == same[0] for picture in same)


def test_files_that_kill_their_decoder_are_rejected_and_their_neighbours_are_not(jobs: Jobs, tmp_path: Path) -> None:
    """A decoder with faults, made by a start-up file of Python: seven channels kill it, and five in the header."""
    rng = np.random.default_rng(0)
    channels = {10: 7, 12: 5}
    for i in range(24):
        sound = rng.normal(scale=0.1, size=(RATE, channels.get(i, 1)))
        write(tmp_path / "in" / f"{i:02d}.flac", sound, "FLAC")
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(
        "import os, soundfile\n"
        "init, read = soundfile.SoundFile.__init__, soundfile.SoundFile.read\n"
        "def die_if(broken):\n"
        "    if broken:\n"
        "        os.kill(os.getpid(), 11)\n"
        "def init_or_die(self, *args, **kwargs):\n"
        "    init(self, *args, **kwargs)\n"
        "    die_if(self.channels == 5)\n"
        "def read_or_die(self, *args, **kwargs):\n"
        "    die_if(self.channels == 7)\n"
        "    return read(self, *args, **kwargs)\n"
        "soundfile.SoundFile.__init__, soundfile.SoundFile.read = init_or_die, read_or_die\n"
    )
    jobs.environment = {"PYTHONPATH": str(tmp_path / "fault")}
    run, said = extract(jobs, tmp_path / "in", tmp_path, "--unit-segments", "8", manifest_flags=["--probe"])
    assert "probed 24 files, 1 of them unreadable" in said
    rejected = rows(run, "rejects")
    assert {name: row["error"] for name, (row,) in rejected.items()} == {
        "10.flac": "CrashedClipError", "12.flac": "CrashedClipError"
    }  # fmt: skip
    assert set(rows(run, "data")) == {f"{i:02d}.flac" for i in range(24)} - set(rejected)
