"""What a tag output remembers, and its runs brought together: against what each night's files say."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioclf import archive, ledger, parquet_files, rundir, schema, storage, tag_results, tag_summary, tagging
from audioclf.errors import ConfigError
from audioclf.recording_times import RecordingTime
from audioclf.rundir import RunDirectory

NAMES = ("cat", "dog", "rain")
FIRST, SECOND = "20240101T220000.000000Z", "20240102T220000.000000Z"


@pytest.fixture
def output(tmp_path: Path) -> RunDirectory:
    return RunDirectory(str(tmp_path))


def part(clip_id: str, etag: str = "1", **fields: Any) -> dict[str, Any]:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}.wav", "size_bytes": 1, "etag": etag, "recorded_at": None,
        "status": "ok", "retry": False, "duration_s": 1.0, "windows": 1, "flags": [], "top_tag": "dog",
        "top_probability": 0.5, "segments": 0, "segments_total": 0, "probability_sum": None, **fields,
    }  # fmt: skip


def tag(clip_id: str, start_s: float, name: str = "dog", probability: float = 0.5) -> dict[str, Any]:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}.wav", "recorded_at": None, "start_s": start_s,
        "end_s": start_s + 1, "tag": name, "mid": None, "probability": probability, "rank": 1,
    }  # fmt: skip


def unit(
    output: RunDirectory, run: str, index: int, parts: list[dict[str, Any]], tags: list[dict[str, Any]] | None = None
) -> None:
    """A unit of a run; without tags, one killed before its commit."""
    name = f"unit-{index:07d}.parquet"
    storage.write_bytes(output.at("runs", run, tagging.PARTS, name), parquet_files.encode(parts, schema.PART))
    if tags is not None:
        storage.write_bytes(output.at("runs", run, rundir.DATA, name), parquet_files.encode(tags, schema.TAG))


def close_all(output: RunDirectory) -> list[str]:
    runs = tag_results.runs_of(output)
    for one in runs:
        if not one.is_closed():
            one.close(NAMES, 0.0, ())
    return [one.name for one in runs]


def listing(*files: tuple[str, int, str]) -> pa.Table:
    ids, sizes, etags = zip(*files, strict=True)
    return pa.table({"clip_id": list(ids), "size_bytes": list(sizes), "etag": list(etags)})


def due(known: ledger.Ledger, found: pa.Table, retry_rejected: bool = False) -> list[bool]:
    new, tried = known.due(found, retry_rejected)
    assert not (new & tried).any()
    return (new | tried).tolist()


def test_what_is_new_or_changed_is_due_and_rejects_are_not(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("same"), part("grown"), part("rewritten"), part("broken", status="rejected")], [])
    known = ledger.read(output, close_all(output))
    found = listing(("new", 1, "1"), ("rewritten", 1, "2"), ("same", 1, "1"), ("broken", 1, "1"), ("grown", 2, "1"))
    assert due(known, found) == [True, True, False, False, True]
    nothing = ledger.read(output, [])
    assert due(nothing, found) == [True] * 5
    assert known.compare(found) == (2, 0)
    assert known.compare(listing(("new", 1, "1"), ("grown", 2, "1"))) == (1, 3)
    assert nothing.compare(found) == (0, 0)
    later = known.listing(listing(("same", 1, "1")))  # the others are gone: that is told once
    assert later.compare(listing(("same", 1, "2"))) == (1, 0)


def test_what_was_rejected_for_a_reason_that_may_pass_is_due_again(output: RunDirectory) -> None:
    parts = [part("ok"), part("broken", status="rejected"), part("locked", status="rejected", retry=True)]
    unit(output, FIRST, 0, parts, [])
    unit(output, FIRST, 1, [long_part(0, [0, 1, 0])], [])
    unit(output, FIRST, 2, [long_part(1, [0, 1, 0], status="partial", retry=True)], [])
    unit(output, FIRST, 3, [long_part(2, [0, 1, 0])], [])
    found = listing(*((name, 1, "1") for name in ("long", "locked", "broken", "ok")))
    known = ledger.read(output, close_all(output))
    assert due(known, found) == [True, True, False, False]
    assert due(known, found, retry_rejected=True) == [True, True, True, False]
    unit(output, SECOND, 0, [part("locked"), part("long")], [])
    known = ledger.read(output, close_all(output))
    assert due(known, found) == [False] * 4


def test_the_ledger_is_its_snapshot_and_the_runs_since(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a"), part("b")], [])
    ledger.write_snapshot(output, ledger.read(output, close_all(output)))
    unit(output, SECOND, 0, [part("a", "2")], [])
    unit(output, SECOND, 1, [part("c")], None)  # killed before its commit
    both = ledger.read(output, close_all(output))
    rows = {(row["clip_id"], row["etag"], row["run"]) for row in both.table.to_pylist()}
    assert rows == {("a", "2", SECOND), ("b", "1", FIRST)}
    ledger.write_snapshot(output, both)
    storage.remove_all(output.at("runs", FIRST))  # what was dealt with stays known
    assert ledger.read(output, close_all(output)).table.equals(both.table)


def test_a_snapshot_that_says_the_same_is_not_written_again(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a")], [])
    ledger.write_snapshot(output, ledger.read(output, close_all(output)))
    path = storage.local_path(output.at(*ledger.SNAPSHOT))
    assert path is not None
    path.chmod(0o444)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    ledger.write_snapshot(output, ledger.read(output, close_all(output)).listing(listing(("a", 1, "1"))))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    ledger.write_snapshot(output, ledger.read(output, close_all(output)).listing(listing(("other", 1, "1"))))
    assert path.stat().st_ino != before[1]


def test_the_latest_tags_are_those_of_files_as_they_are(output: RunDirectory) -> None:
    unit(
        output,
        FIRST,
        0,
        [part("kept"), part("changed"), part("gone")],
        [tag(i, 0) for i in ("kept", "changed", "gone")],
    )
    unit(output, SECOND, 0, [part("changed", "2")], [tag("changed", 0, "cat"), tag("changed", 1, "cat")])
    known = ledger.read(output, close_all(output))
    ledger.write_snapshot(output, known.listing(listing(("kept", 1, "1"), ("changed", 1, "2"))))
    latest = ledger.latest(output.uri, ["clip_id", "tag", "start_s"])
    assert latest.column_names == ["clip_id", "tag", "start_s"]
    expected = [("changed", "cat", 0.0), ("changed", "cat", 1.0), ("kept", "dog", 0.0)]
    assert sorted(tuple(row.values()) for row in latest.to_pylist()) == expected
    # Changed, and for some reason not yet tagged again: what was heard in it is not there any more.
    stale = ledger.read(output, close_all(output)).listing(listing(("kept", 1, "2"), ("changed", 1, "2")))
    ledger.write_snapshot(output, stale)
    assert set(ledger.latest(output.uri)["clip_id"].to_pylist()) == {"changed"}
    back = ledger.read(output, close_all(output)).listing(listing(("kept", 1, "1"), ("gone", 1, "1")))
    assert due(back, listing(("gone", 1, "1"))) == [False]  # a file that comes back as it was is not read again
    ledger.write_snapshot(output, back)
    assert set(ledger.latest(output.uri)["clip_id"].to_pylist()) == {"kept", "gone"}


def test_a_manifest_says_nothing_of_what_it_does_not_name(output: RunDirectory) -> None:
    clips = ("kept", "changed", "elsewhere", "gone_before")
    unit(output, FIRST, 0, [part(clip) for clip in clips], [tag(clip, 0) for clip in clips])
    known = ledger.read(output, close_all(output))
    known = known.listing(listing(*((clip, 1, "1") for clip in clips[:3])))
    ledger.write_snapshot(output, known.listing(listing(("kept", 1, "1"), ("changed", 2, "1")), whole=False))
    assert set(ledger.latest(output.uri)["clip_id"].to_pylist()) == {"kept", "elsewhere"}


def test_no_tags_without_a_run(output: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="no ledger here"):
        ledger.latest(output.uri)


def long_part(index: int, probability_sum: list[float], **fields: Any) -> dict[str, Any]:
    """Of a recording of five windows: units of two, two and one."""
    windows = (2, 2, 1)[index]
    return part(
        "long", windows=windows, duration_s=float(windows), segments=windows, segments_total=5,
        probability_sum=probability_sum, **fields,
    )  # fmt: skip


def test_the_parts_of_a_long_recording_become_one(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a")], [tag("a", 0)])
    unit(output, FIRST, 1, [long_part(0, [0.1, 1.5, 0.4], flags=["silent"])], [tag("long", 0), tag("long", 1)])
    unit(output, FIRST, 2, [long_part(1, [1.6, 0.2, 0.2], flags=["clipped"])], [tag("long", 2, "dog", 0.75)])
    unit(output, FIRST, 3, [long_part(2, [0.9, 0.0, 0.1], status="partial")], [tag("long", 4)])
    unit(output, FIRST, 4, [part("b")], [])
    close_all(output)
    rows = {row["clip_id"]: row for row in pq.read_table(_local(output, "recordings.parquet")).to_pylist()}
    assert list(rows) == ["a", "long", "b"]
    long = rows["long"]
    assert (long["status"], long["windows"], long["duration_s"], long["flags"]) == ("partial", 5, 5.0, ["clipped"])
    assert long["top_tag"] == "cat"
    assert long["top_probability"] == np.float32(2.6 / 5)
    events = pq.read_table(_local(output, "events.parquet")).to_pylist()
    spans = [(e["clip_id"], e["start_s"], e["end_s"], e["windows"], e["probability"]) for e in events]
    assert spans == [("a", 0, 1, 1, 0.5), ("long", 0, 3, 3, 0.75), ("long", 4, 5, 1, 0.5)]  # across units


def test_a_long_recording_that_is_not_whole_is_due_again(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [long_part(0, [0.1, 1.5, 0.4])], [tag("long", 0)])
    unit(output, FIRST, 1, [long_part(1, [0.1, 1.5, 0.4])], [tag("long", 2)])
    unit(output, FIRST, 2, [long_part(2, [0.1, 1.5, 0.4])], None)  # killed before its commit
    known = ledger.read(output, close_all(output))
    assert due(known, listing(("long", 1, "1"))) == [True]
    ledger.write_snapshot(output, known)
    assert len(ledger.latest(output.uri)) == 0


def test_units_share_row_groups(output: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_results, "ROWS_IN_GROUP", 10)
    for i in range(8):
        unit(output, FIRST, i, [part(f"{i}-{j}") for j in range(3)], [tag(f"{i}-0", 0)] if i % 2 else [])
    close_all(output)
    recordings, events = (pq.ParquetFile(_local(output, name)) for name in ("recordings.parquet", "events.parquet"))
    groups = [recordings.metadata.row_group(i).num_rows for i in range(recordings.num_row_groups)]
    assert groups == [12, 12]
    assert recordings.read()["clip_id"].to_pylist() == [f"{i}-{j}" for i in range(8) for j in range(3)]
    assert events.read()["clip_id"].to_pylist() == ["1-0", "3-0", "5-0", "7-0"]
    assert events.num_row_groups == 1


def test_what_an_attempt_rejected_before_it_died_is_not_counted(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a"), part("b", status="rejected")], [])
    rejects = [
        {"clip_id": clip, "uri": f"file:///{clip}.wav", "segment_index": None, "copy_index": None, "stage": "fetch",
         "error": error, "message": "m"}
        for clip, error in (("a", "MissingClipError"), ("b", "DecodeError"))
    ]  # fmt: skip
    uri = output.at("runs", FIRST, rundir.REJECTS, "unit-0000000.parquet")
    storage.write_bytes(uri, parquet_files.encode(rejects, schema.REJECT))
    close_all(output)
    (one,) = tag_results.runs_of(output)
    assert tag_summary.total(one.directory)["rejects_by_reason"] == {"DecodeError": 1}


def test_folders_beside_the_runs_are_none(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a")], [])
    for name in ("2023", "notes", "20240101", "T1.5Z"):
        storage.write_bytes(output.at("runs", name, "notes.txt"), b"mine")
    assert [one.name for one in tag_results.runs_of(output)] == [FIRST]


def test_exports_hold_what_the_run_found(output: RunDirectory) -> None:
    unit(output, FIRST, 0, [part("a"), part("b")], [tag("a", 0), tag("a", 1), tag("b", 0, "cat")])
    unit(output, FIRST, 1, [part("c", status="rejected")], [])
    (one,) = tag_results.runs_of(output)
    one.close(NAMES, 0.0, ("csv", "jsonl", "audacity"))
    lines = Path(_local(output, "tags.jsonl")).read_text().splitlines()
    assert [(row["clip_id"], row["start_s"]) for row in map(json.loads, lines)] == [("a", 0), ("a", 1), ("b", 0)]
    assert len(Path(_local(output, "events.csv")).read_text().splitlines()) == 1 + 2
    labels = sorted(Path(_local(output, "labels")).iterdir())
    assert [path.read_text().split("\t")[:2] for path in labels] == [
        ["0.000000", "2.000000"],
        ["0.000000", "1.000000"],
    ]


def _local(output: RunDirectory, name: str) -> str:
    path = storage.local_path(output.at("runs", FIRST, name))
    assert path is not None
    return str(path)


def test_a_million_unchanged_recordings_are_known_in_any_order() -> None:
    ids = pa.array([f"{i:032x}" for i in range(1_000_000)])
    ones = pa.array(np.ones(len(ids), np.int64))
    etags = pa.array(["1"] * len(ids))
    ok, no = pa.array(["ok"] * len(ids)), pa.array(np.zeros(len(ids), bool))
    columns = [ids, ones, etags, ok, no, etags, pa.array(np.ones(len(ids), bool))]
    known = ledger.Ledger(pa.Table.from_arrays(columns, schema=ledger.LEDGER), frozenset(), True)
    order = np.random.default_rng(0).permutation(len(ids))
    found = pa.table({"clip_id": ids, "size_bytes": ones, "etag": etags}).take(pa.array(order))
    assert not any(due(known, found))
    assert known.listing(found) is known


def test_a_name_with_an_impossible_date_does_not_hold_up_the_others(tmp_path: Path) -> None:
    for name in ("20240131_120000.wav", "20241331_120000.wav", "none.wav"):
        (tmp_path / name).write_bytes(b"")
    known = ledger.read(RunDirectory(str(tmp_path / "out")), [])
    due = archive.due(archive.find(str(tmp_path)), known, 0, RecordingTime("audiomoth"), None)
    assert due.undated == 2
    assert due.undated_example in ("20241331_120000.wav", "none.wav")
    found = {Path(row["uri"]).name: row["recorded_at"] for row in due.table.to_pylist()}
    assert {name for name, moment in found.items() if moment} == {"20240131_120000.wav"}


def test_a_file_from_the_future_does_not_wait_for_its_day(tmp_path: Path) -> None:
    now = time.time()
    modified_s = {
        "old.wav": now - 3600,
        "being_written.wav": now - 10,
        "fast_clock.wav": now + 60,
        "wrong_clock.wav": now + 30 * 86_400,
    }
    for name, modified in modified_s.items():
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (modified, modified))
    known = ledger.read(RunDirectory(str(tmp_path / "out")), [])
    taken = archive.due(archive.find(str(tmp_path)), known, 600, None, None)
    assert {Path(uri).name for uri in taken.table["uri"].to_pylist()} == {"old.wav", "wrong_clock.wav"}
    assert (taken.too_young, taken.from_the_future) == (2, 1)


def test_files_that_are_no_audio_by_their_names_are_told(tmp_path: Path) -> None:
    for name in ("a.wav", "b.m4a", "c.m4a", "notes"):
        (tmp_path / name).write_bytes(b"")
    found = archive.find(str(tmp_path))
    assert (len(found), found.passed_over) == (1, "1 without suffix, 2 .m4a")


def test_a_limit_is_for_what_is_new_before_what_can_t_be_read(tmp_path: Path, output: RunDirectory) -> None:
    for name in ("a_locked.wav", "b_locked.wav", "c_new.wav", "d_new.wav"):
        (tmp_path / name).write_bytes(b"")
    found = archive.find(str(tmp_path))
    ids, etags = found.table["clip_id"].to_pylist(), found.table["etag"].to_pylist()
    locked = [part(ids[i], etags[i], size_bytes=0, status="rejected", retry=True) for i in (0, 1)]
    unit(output, FIRST, 0, locked, [])
    known = ledger.read(output, close_all(output))
    for limit, names in ((1, ["c_new"]), (3, ["a_locked", "c_new", "d_new"])):
        due = archive.due(found, known, 0, None, limit)
        assert [Path(uri).stem for uri in due.table["uri"].to_pylist()] == names
        assert due.tried.tolist() == [name == "a_locked" for name in names]
