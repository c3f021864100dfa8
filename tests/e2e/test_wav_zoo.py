"""Odd and broken audio of many origins: each file is decoded or rejected with a reason, none disappears."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq

from .conftest import Jobs


def test_every_file_is_in_the_shards_or_the_rejects(jobs: Jobs, shared: Path, tmp_path: Path) -> None:
    zoo = shared / "data" / "wav_zoo"
    manifest, run = str(tmp_path / "m.parquet"), str(tmp_path / "run")
    said = jobs.succeed("manifest", "--input", str(zoo), "--output", manifest, "--layout", "flat")
    assert "1 .csv" in said
    done = jobs.run("extract", "--manifest", manifest, "--output", run, "--max-reject-fraction", "0.5")
    assert done.returncode == 0, done.stderr
    written = _names(run, "data")
    rejected = _names(run, "rejects")
    assert written.isdisjoint(rejected)
    with open(zoo / "manifest.csv", newline="") as file:
        by_soundfile = {row["file"]: row["soundfile_result"] for row in csv.DictReader(file)}
    assert len(by_soundfile) == 68
    assert written == {name for name, result in by_soundfile.items() if result == "ok"}
    assert rejected == {name for name, result in by_soundfile.items() if result != "ok"}
    rows = [row for path in Path(run, "rejects").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert all(row["message"] and row["stage"] == "decode" for row in rows)
    clips = json.loads(Path(run, "summary.json").read_text())["total"]["clips"]
    assert clips["planned"] == 68 == clips["ok"] + clips["rejected"]


def _names(run: str, folder: str) -> set[str]:
    from audioclf import storage

    return {
        storage.display(uri).rsplit("/", 1)[-1]
        for path in Path(run, folder).glob("*.parquet")
        for uri in pq.read_table(path, columns=["uri"])["uri"].to_pylist()
    }
