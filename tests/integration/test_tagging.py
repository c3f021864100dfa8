"""Tagging an archive, night after night, on a Ray cluster."""

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from audioclf import ledger, parquet_files, schema, shards, storage
from audioclf.config import ManifestConfig, TagConfig
from audioclf.errors import ConfigError
from audioclf.pipelines import manifest, tag, tag_stages

RATE = 8_000
KEY = ["clip_id", "start_s", "end_s", "tag", "rank"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of 0.4 to 13 seconds that change from a low to a high tone, over and over; in a folder of a name."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    for i, seconds in enumerate((0.4, 13.0, 1.0, 5.3, 2.5, 7.7)):
        time = np.arange(round(seconds * RATE)) / RATE
        hz = np.where(np.floor(time * 0.7 + i) % 2 == 0, 300, 3000)
        sound = 0.4 * np.sin(2 * np.pi * np.cumsum(hz) / RATE) + rng.normal(scale=0.02, size=len(time))
        path = folder / "a b" / f"2024013{i % 2}_12000{i}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, sound, RATE)
    return folder


def run(archive: Path | str, checkpoint: str, output: Path | str, **flags: Any) -> str:
    return tag.run(TagConfig(input=str(archive), checkpoint=checkpoint, output=str(output), **flags))


def rows_of(output: Path | str, columns: list[str] | None = None) -> pa.Table:
    """All tags of all runs, in one order."""
    output = storage.to_uri(str(output))
    tables = [schema.TAG.empty_table()]
    for name in storage.folders_in(f"{output}/runs"):
        tables += [parquet_files.read(uri) for uri in shards.committed_files(f"{output}/runs/{name}")]
    return pa.concat_tables(tables).sort_by([(name, "ascending") for name in KEY]).select(columns or schema.TAG.names)


def names(table: pa.Table) -> set[str]:
    return {Path(uri).name for uri in table["uri"].to_pylist()}


def run_folders(output: Path) -> list[Path]:
    return sorted((output / "runs").iterdir())


# --- night after night


def test_each_night_takes_what_is_new_or_changed_and_nothing_twice(trained: str, clips: Path, tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "tags"
    archive.mkdir()
    for name in ("0.wav", "1.wav", "2.wav"):
        shutil.copy(clips / "high" / name, archive / name)
    (archive / "broken.wav").write_bytes(b"RIFF")
    flags = {"top_k": 1, "max_reject_fraction": 0.5}
    assert run(archive, trained, output, **flags) == "ok"
    assert len(rows_of(output)) == 3  # a window each: none is longer than a training segment
    assert run(archive, trained, output, **flags) == "ok"
    assert len(run_folders(output)) == 1, "nothing new, and yet another run"
    shutil.copy(clips / "low" / "11.wav", archive / "0.wav")
    shutil.copy(clips / "low" / "3.wav", archive / "3.wav")
    (archive / "2.wav").unlink()
    assert run(archive, trained, output, **flags) == "ok"
    assert names(pq.read_table(run_folders(output)[1] / "manifest.parquet")) == {"0.wav", "3.wav"}
    latest = ledger.latest(str(output))
    assert names(latest) == {"0.wav", "1.wav", "3.wav"}
    assert dict(zip(names_in_order(latest), latest["tag"].to_pylist(), strict=True))["0.wav"] == "low"


def names_in_order(table: pa.Table) -> list[str]:
    return [Path(uri).name for uri in table["uri"].to_pylist()]


def test_the_young_wait_for_the_next_night(trained: str, clips: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    shutil.copy(clips / "high" / "0.wav", archive)
    assert run(archive, trained, tmp_path / "tags", min_age_s=3600) == "ok"
    assert not (tmp_path / "tags" / "runs").exists()
    assert run(archive, trained, tmp_path / "tags") == "ok"
    assert names(rows_of(tmp_path / "tags")) == {"0.wav"}


def test_a_run_that_was_killed_counts_for_what_it_committed(trained: str, archive: Path, tmp_path: Path) -> None:
    """As it leaves the output when it is killed before its last unit's commit."""
    output, flags = tmp_path / "tags", {"window_s": 0.5, "unit_s": 2.0}
    run(archive, trained, output, **flags)
    whole = rows_of(output)
    (first,) = run_folders(output)
    shutil.rmtree(output / "ledger")
    for name in ("recordings.parquet", "events.parquet", "summary.json", "_SUCCESS"):
        (first / name).unlink()
    last = max((first / "data").iterdir())
    lost = set(pq.read_table(last)["clip_id"].to_pylist())
    last.unlink()
    first.rename(first.with_name("20200101T000000.000000Z"))
    assert run(archive, trained, output, **flags, keep_days=30) == "ok"
    second = run_folders(output)[1]
    assert set(pq.read_table(second / "manifest.parquet")["clip_id"].to_pylist()) == lost
    assert rows_of(output).equals(whole)
    assert len(ledger.latest(str(output))) == len(whole)
    # What it found is there for a night, however long ago it began.
    assert run(archive, trained, output, **flags, keep_days=30) == "ok"
    assert run_folders(output) == [second]


@pytest.mark.parametrize("closed", [False, True])
def test_what_a_killed_run_rejected_is_told(
    closed: bool, trained: str, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive, output = tmp_path / "archive", tmp_path / "tags"
    archive.mkdir()
    shutil.copy(clips / "high" / "0.wav", archive)
    (archive / "broken.wav").write_bytes(b"RIFF")
    run(archive, trained, output, max_reject_fraction=1.0)
    (first,) = run_folders(output)
    shutil.rmtree(output / "ledger")
    for name in ("summary.json", "_SUCCESS", *(() if closed else ("recordings.parquet", "events.parquet"))):
        (first / name).unlink()
    (output / "runs" / "notes").mkdir()  # somebody's own folder is no run
    with caplog.at_level(logging.INFO, logger="audioclf"):
        assert run(archive, trained, output, keep_days=30) == "ok"
    assert "2 of its recordings are dealt with, 1 of them wholly or partly rejected" in caplog.text
    assert "broken.wav: DecodeError" in caplog.text
    summary = json.loads((first / "summary.json").read_text())
    assert summary["status"] == "killed"
    assert summary["total"]["recordings"] == {"ok": 1, "partial": 0, "rejected": 1}
    assert list((output / "runs" / "notes").iterdir()) == []


def test_what_was_not_there_is_taken_again_when_it_is(trained: str, clips: Path, tmp_path: Path) -> None:
    archive, output, listing = tmp_path / "archive", tmp_path / "tags", tmp_path / "m.parquet"
    archive.mkdir()
    for name in ("0.wav", "1.wav"):
        shutil.copy(clips / "high" / name, archive)
    (archive / "broken.wav").write_bytes(b"RIFF")
    manifest.run(ManifestConfig(input=str(archive), output=str(listing), layout="flat"))
    (archive / "1.wav").rename(tmp_path / "away.wav")
    flags = {"top_k": 1, "max_reject_fraction": 1.0}
    assert run(listing, trained, output, **flags) == "ok"
    assert names(rows_of(output)) == {"0.wav"}
    (tmp_path / "away.wav").rename(archive / "1.wav")
    assert run(listing, trained, output, **flags) == "ok"
    assert names(pq.read_table(run_folders(output)[1] / "manifest.parquet")) == {"1.wav"}
    assert names(rows_of(output)) == {"0.wav", "1.wav"}
    assert run(listing, trained, output, **flags, retry_rejected=True) == "ok"
    assert names(pq.read_table(run_folders(output)[2] / "manifest.parquet")) == {"broken.wav"}


def test_old_runs_are_removed_and_what_they_did_is_known(trained: str, clips: Path, tmp_path: Path) -> None:
    archive, output = tmp_path / "archive", tmp_path / "tags"
    archive.mkdir()
    shutil.copy(clips / "high" / "0.wav", archive)
    run(archive, trained, output)
    (first,) = run_folders(output)
    first.rename(first.with_name("20200101T000000.000000Z"))
    shutil.copy(clips / "high" / "1.wav", archive)
    # The ledger names the run by the name it had; under another name it is a run like any other.
    assert run(archive, trained, output, keep_days=30) == "ok"
    assert [path.name > "2021" for path in run_folders(output)] == [True]
    assert run(archive, trained, output) == "ok"
    assert len(run_folders(output)) == 1


# --- the same rows however it is done


@pytest.fixture(scope="module")
def reference(trained: str, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """By PyTorch, window by window, in one unit."""
    output = tmp_path_factory.mktemp("reference") / "tags"
    assert run(archive, trained, output, window_s=0.5, hop_s=0.25, batch_size=1, num_actors=1, runtime="torch") == "ok"
    return rows_of(output)


def test_workers_that_would_leave_none_to_the_network_are_refused(archive: Path, trained: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 processes that make windows and 1 .* this machine has 2: give fewer"):
        run(archive, trained, tmp_path / "tags", num_actors=2, inference_actors=1)


@pytest.mark.parametrize(
    "flags",
    [
        {"batch_size": 1},
        {"batch_size": 7, "num_actors": 2, "unit_s": 3.0},
        {"batch_size": 64, "unit_s": 1.0},
        {"batch_size": 7, "inference_actors": 1, "unit_s": 3.0},
        {"batch_size": 64, "runtime": "torch"},
    ],
)
def test_how_it_is_done_does_not_matter(
    flags: dict[str, Any], reference: pa.Table, trained: str, archive: Path, tmp_path: Path
) -> None:
    assert run(archive, trained, tmp_path / "tags", window_s=0.5, hop_s=0.25, **flags) == "ok"
    require_same(rows_of(tmp_path / "tags"), reference)


@pytest.mark.parametrize("flags", [{}, {"gpus_per_actor": 0.5, "num_actors": 2, "unit_s": 3.0}])
def test_processes_that_have_a_gpu_give_the_same(
    flags: dict[str, Any],
    reference: pa.Table,
    trained: str,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All but the device: Ray places them, windows are sent to them, and they compute on the CPU."""
    monkeypatch.setattr(tag, "GPU", tag.CPU)
    assert run(archive, trained, tmp_path / "tags", window_s=0.5, hop_s=0.25, use_gpu=True, **flags) == "ok"
    require_same(rows_of(tmp_path / "tags"), reference)


def require_same(found: pa.Table, expected: pa.Table) -> None:
    columns = [name for name in schema.TAG.names if name not in ("uri", "probability")]
    assert found.select(columns).equals(expected.select(columns))
    np.testing.assert_allclose(found["probability"], expected["probability"], atol=1e-5)


def test_long_recordings_over_many_units_are_the_same(
    reference: pa.Table, trained: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag, "PROBE_ABOVE_BYTES", 0)
    output = tmp_path / "tags"
    assert run(archive, trained, output, window_s=0.5, hop_s=0.25, unit_s=1.0) == "ok"
    require_same(rows_of(output), reference)
    (only,) = run_folders(output)
    assert len(list((only / "data").iterdir())) > 25  # 30 seconds in units of one
    recordings = {Path(row["uri"]).name: row for row in pq.read_table(only / "recordings.parquet").to_pylist()}
    assert len(recordings) == 6
    for path in archive.rglob("*.wav"):
        row, seconds = recordings[path.name], soundfile.info(path).duration
        assert row["duration_s"] == pytest.approx(seconds)
        assert row["windows"] == 1 + max(0, int(np.ceil(round((seconds - 0.5) / 0.25, 6))))
    events = pq.read_table(only / "events.parquet").to_pylist()
    assert max(event["end_s"] - event["start_s"] for event in events) > 1.0  # none ends with its unit


def test_tags_are_the_same_from_a_bucket(
    reference: pa.Table, trained: str, archive: Path, bucket: str, tmp_path: Path
) -> None:
    client = boto3.client("s3")
    client.create_bucket(Bucket=f"{bucket}-tags")
    for path in archive.rglob("*.wav"):
        client.upload_file(str(path), bucket, str(path.relative_to(archive)))
    output = f"s3://{bucket}-tags/out"
    assert run(f"s3://{bucket}", trained, output, window_s=0.5, hop_s=0.25) == "ok"
    require_same(rows_of(output), reference)
    assert ledger.latest(output).num_rows == len(reference)
    assert run(f"s3://{bucket}", trained, output, window_s=0.5, hop_s=0.25) == "ok"
    assert len(storage.folders_in(f"{output}/runs")) == 1


def test_a_manifest_names_the_recordings_as_well(
    reference: pa.Table, trained: str, archive: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.parquet"
    manifest.run(ManifestConfig(input=str(archive), output=str(path), layout="flat"))
    assert run(path, trained, tmp_path / "tags", window_s=0.5, hop_s=0.25) == "ok"
    require_same(rows_of(tmp_path / "tags"), reference)
    with pytest.raises(ConfigError, match="--min-age-s and --time-regex need a folder"):
        run(path, trained, tmp_path / "other", min_age_s=1)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(2, 1)]), path)
    with pytest.raises(ConfigError, match=rf"{path}: 1 of its rows name a clip that another names too, such as row 6"):
        run(path, trained, tmp_path / "other")
    assert not (tmp_path / "other" / "config.json").exists()


# --- what is written


def test_a_run_tells_what_it_found(trained: str, archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "tags"
    flags = {"time_regex": r"(\d{8}_\d{6})", "time_zone": "Europe/Berlin", "threshold": 0.5, "embeddings": True}
    assert run(archive, trained, output, window_s=0.5, export=("csv", "audacity"), **flags) == "ok"
    (only,) = run_folders(output)
    tags = rows_of(output).to_pylist()
    assert {(row["recorded_at"].hour, row["recorded_at"].day) for row in tags} == {(11, 30), (11, 31)}
    assert min(row["probability"] for row in tags) >= 0.5
    summary = json.loads((only / "summary.json").read_text())
    assert summary["total"]["tags"] == len(tags)
    assert summary["settings"]["thresholds"] == 0.5
    assert summary["total"]["recordings"] == {"planned": 6, "ok": 6, "partial": 0, "rejected": 0, "rejected_again": 0}
    assert summary["this_run"]["seconds"].keys() == {"decode", "front_end", "network", "output"}
    with open(only / "tags.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(tags)
    n_windows = summary["total"]["windows"]
    embeddings = pa.concat_tables([pq.read_table(path) for path in (only / "embeddings").iterdir()])
    assert len(embeddings) == n_windows
    assert len({len(row) for row in embeddings["embedding"].to_pylist()}) == 1
    assert len(list((only / "labels").iterdir())) == len(pq.read_table(only / "events.parquet")["uri"].unique())


def test_another_configuration_on_the_same_output_is_refused(trained: str, archive: Path, tmp_path: Path) -> None:
    assert run(archive, trained, tmp_path / "tags", limit=1) == "ok"
    with pytest.raises(ConfigError, match=r"thresholds was 0\.0 and is now 0\.5"):
        run(archive, trained, tmp_path / "tags", threshold=0.5)
    with pytest.raises(ConfigError, match=r"thresholds was 0\.0 and is now 0\.5"):
        run(archive, trained, tmp_path / "tags", threshold=0.5, dry_run=True)
    with pytest.raises(ConfigError, match="input was"):
        run(archive / "a b", trained, tmp_path / "tags")


def test_an_empty_archive_is_an_error_that_leaves_nothing(trained: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigError, match="no audio file below it"):
        run(tmp_path / "in", trained, tmp_path / "tags")
    assert list((tmp_path / "tags").iterdir()) == []


def test_an_archive_that_was_emptied_is_a_quiet_night(trained: str, tmp_path: Path) -> None:
    sound = np.random.default_rng(0).normal(scale=0.1, size=RATE)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", sound, RATE)
    assert run(tmp_path / "in", trained, tmp_path / "tags") == "ok"
    assert ledger.latest(str(tmp_path / "tags")).num_rows > 0
    (tmp_path / "in" / "a.wav").unlink()
    assert run(tmp_path / "in", trained, tmp_path / "tags") == "ok"
    assert ledger.latest(str(tmp_path / "tags")).num_rows == 0
    assert len(run_folders(tmp_path / "tags")) == 1


def test_a_dry_run_does_nothing(trained: str, archive: Path, tmp_path: Path) -> None:
    assert run(archive, trained, tmp_path / "tags", dry_run=True) == "ok"
    assert not (tmp_path / "tags").exists()


def test_no_gpus_are_a_usage_error(
    trained: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag.cluster, "gpus", lambda: 0)
    with pytest.raises(ConfigError, match="--use-gpu: this cluster has 0 GPUs, and a process takes 1"):
        run(archive, trained, tmp_path / "tags", use_gpu=True)


# --- what is broken


def test_what_is_rejected_again_is_no_news(trained: str, archive: Path, tmp_path: Path) -> None:
    """A missing file is looked for each night; that it is still missing does not make the night a failure."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.wav").write_bytes(next(archive.rglob("*.wav")).read_bytes())
    manifest.run(ManifestConfig(input=str(tmp_path), output=str(tmp_path / "m.parquet"), layout="flat"))
    (tmp_path / "a.wav").unlink()
    assert run(tmp_path / "m.parquet", trained, tmp_path / "tags") == "too_many_rejects"
    assert run(tmp_path / "m.parquet", trained, tmp_path / "tags") == "ok"
    _, second = run_folders(tmp_path / "tags")
    recordings = json.loads((second / "summary.json").read_text())["total"]["recordings"]
    assert recordings == {"planned": 1, "ok": 0, "partial": 0, "rejected": 1, "rejected_again": 1}


def test_broken_windows_leave_the_others(trained: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sound = np.random.default_rng(0).normal(scale=0.1, size=4 * RATE).astype(np.float32)
    soundfile.write(tmp_path / "in" / "good.wav", sound, RATE, subtype="FLOAT")
    sound[RATE + 10] = np.nan
    soundfile.write(tmp_path / "in" / "nan.wav", sound, RATE, subtype="FLOAT")
    (tmp_path / "in" / "empty.wav").write_bytes(b"")
    whole = (tmp_path / "in" / "good.wav").read_bytes()
    (tmp_path / "in" / "cut.wav").write_bytes(whole[: len(whole) // 2])
    status = run(tmp_path / "in", trained, tmp_path / "tags", window_s=1.0, top_k=1, max_reject_fraction=0.2)
    assert status == "too_many_rejects"
    (only,) = run_folders(tmp_path / "tags")
    rows = pq.read_table(only / "recordings.parquet").to_pylist()
    found = {Path(row["uri"]).name: (row["status"], row["windows"], row["flags"]) for row in rows}
    assert found == {
        "good.wav": ("ok", 4, []),
        "nan.wav": ("partial", 3, []),
        "empty.wav": ("rejected", 0, []),
        "cut.wav": ("ok", 2, ["truncated"]),
    }
    assert names(rows_of(tmp_path / "tags")) == {"good.wav", "nan.wav", "cut.wav"}


def test_an_actor_that_dies_loses_nothing(
    reference: pa.Table, trained: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = _dying_once(tag_stages.tag_units, tmp_path / "died")
    monkeypatch.setattr(tag_stages, "tag_units", dying)
    assert run(archive, trained, tmp_path / "tags", window_s=0.5, hop_s=0.25, unit_s=3.0) == "ok"
    assert (tmp_path / "died").exists()
    require_same(rows_of(tmp_path / "tags"), reference)


def _dying_once(make: Callable[[Any], Any], marker: Path) -> Callable[[Any], Any]:
    """A worker that kills itself before the first unit that anybody does."""

    def made(plan: Any) -> Callable[..., Any]:
        import os
        import signal

        process = make(plan)

        def do(attempt: Any) -> Any:
            try:
                marker.touch(exist_ok=False)
            except FileExistsError:
                return process(attempt)
            return os.kill(os.getpid(), signal.SIGKILL)

        return do

    return made
