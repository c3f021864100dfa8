"""Extraction on a Ray cluster: nothing lost, nothing twice, the same rows however it is run."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioclf import parquet_files, shards, storage
from audioclf.config import ExtractConfig, ManifestConfig
from audioclf.errors import ConfigError, StorageError
from audioclf.manifest import Clip, to_table
from audioclf.pipelines import extract, manifest

ALL_BUT_URI = [
    "clip_id", "segment_index", "start_s", "copy_index", "transform_set", "transform_params", "log_mel",
    "valid_frames", "labels", "fold", "source_id", "flags", "content_digest",
]  # fmt: skip
KEY = [("clip_id", "ascending"), ("segment_index", "ascending"), ("copy_index", "ascending")]


def rows(run: str) -> pa.Table:
    """All rows of an extraction in one order, without uri."""
    files = shards.committed_files(storage.to_uri(run))
    table = pa.concat_tables([parquet_files.read(uri).replace_schema_metadata() for uri in files])
    return table.sort_by(KEY).select(ALL_BUT_URI).combine_chunks()


def test_every_clip_is_written_or_rejected(extracted: str, clips: Path) -> None:
    summary = json.loads(Path(extracted, "summary.json").read_text())
    assert summary["total"]["clips"] == {"planned": 25, "ok": 24, "partial": 0, "rejected": 1}
    assert summary["total"]["rejects_by_reason"] == {"DecodeError": 1}
    written = {storage.display(uri) for uri in _uris(extracted)}
    assert written == {str(path) for path in clips.glob("*/*.wav") if path.name != "broken.wav"}
    rejects = pa.concat_tables([pq.read_table(path) for path in Path(extracted, "rejects").glob("*.parquet")])
    assert [Path(storage.display(uri)).name for uri in rejects["uri"].to_pylist()] == ["broken.wav"]
    assert Path(extracted, "_SUCCESS").exists()


def _uris(run: str) -> list[str]:
    return [
        uri
        for file in shards.committed_files(storage.to_uri(run))
        for uri in parquet_files.read(file, ["uri"])["uri"].to_pylist()
    ]


def test_segments_are_as_long_as_the_longest_clip(extracted: str) -> None:
    # 8000 / 2 + 11 · 8000 / 24 = 7666 samples at 8 kHz are 0.95825 s: 42,259 at 44.1 kHz, 1 + 42259 // 1024 frames.
    assert shards.load([extracted], copies=False).log_mel.shape == (24, 128, 42)


def test_a_part_said_to_end_beyond_its_file_ends_there() -> None:
    clip = Clip("a", "file:///a.wav", 1, "1", duration_s=5.0, start_s=1.0, end_s=25.0)
    config = ExtractConfig(manifest="m.parquet", output="run")
    assert extract._longest_clip_s(to_table([clip]), config) == 4.0


def test_a_table_of_no_clips_is_bad_usage(clips: Path, tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_text("path,labels\n")
    config = ManifestConfig(input=str(clips), output=str(tmp_path / "m.parquet"), layout="csv", metadata=str(table))
    with pytest.raises(ConfigError, match=r"x\.csv: names no clips"):
        manifest.run(config)


@pytest.mark.parametrize(("num_actors", "unit_segments"), [(1, 25), (2, 3)])
def test_rows_do_not_depend_on_workers_or_units(
    extracted: str, manifest_file: str, tmp_path: Path, num_actors: int, unit_segments: int
) -> None:
    output = str(tmp_path / "run")
    config = ExtractConfig(manifest=manifest_file, output=output, num_actors=num_actors, unit_segments=unit_segments)
    assert extract.run(config) == "ok"
    assert rows(output).equals(rows(extracted))


def test_resume_does_only_what_is_missing(manifest_file: str, extracted: str, tmp_path: Path) -> None:
    config = ExtractConfig(manifest=manifest_file, output=str(tmp_path / "run"), unit_segments=5)
    extract.run(config)
    files = sorted((tmp_path / "run" / "data").iterdir())
    missing = files[2]
    content = missing.read_bytes()
    missing.unlink()
    kept = {path: path.stat().st_mtime_ns for path in files if path != missing}
    assert extract.run(config) == "ok"
    assert missing.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["this_run"]["units"] == 1
    assert rows(str(tmp_path / "run")).equals(rows(extracted))


def test_another_configuration_on_the_same_directory_names_the_difference(extracted: str, manifest_file: str) -> None:
    with pytest.raises(ConfigError, match=r"segment_s was 0\.95\d* and is now 2\.0"):
        extract.run(ExtractConfig(manifest=manifest_file, output=extracted, segment_s=2.0))


def test_a_bound_on_segments_that_is_changed_or_given_later_is_another_configuration(
    manifest_file: str, tmp_path: Path
) -> None:
    """Where no length is given, a run that has begun says what the longest clip is."""
    given, found = (str(tmp_path / name) for name in ("given", "found"))
    for config in (
        ExtractConfig(manifest=manifest_file, output=given, segment_s=0.5),
        ExtractConfig(manifest=manifest_file, output=found, max_segment_s=0.5),
    ):
        assert extract.run(config) == "ok"
        assert extract.run(config) == "ok"
        with pytest.raises(ConfigError, match=r"segment_s was 0\.5 and is now 0\.95"):
            extract.run(ExtractConfig(manifest=manifest_file, output=config.output))


def test_segments_that_no_worker_can_hold_are_refused_at_once(manifest_file: str, tmp_path: Path) -> None:
    config = ExtractConfig(manifest=manifest_file, output=str(tmp_path / "run"), segment_s=3600.0)
    with pytest.raises(ConfigError, match=r"segments of 3600 s .* give a shorter --segment-s, or --memory-mb \d+"):
        extract.run(config)
    assert not (tmp_path / "run").exists()


def test_units_planned_otherwise_are_not_taken_for_the_same(clips: Path, tmp_path: Path) -> None:
    listed, output = str(tmp_path / "m.parquet"), str(tmp_path / "run")
    manifest.run(ManifestConfig(input=str(clips), output=listed))
    assert extract.run(ExtractConfig(manifest=listed, output=output, segment_s=0.05)) == "ok"
    manifest.run(ManifestConfig(input=str(clips), output=listed, probe=True))
    with pytest.raises(ConfigError, match="the units of work are others"):
        extract.run(ExtractConfig(manifest=listed, output=output, segment_s=0.05))


def test_too_many_rejects_keep_the_data_and_mark_no_success(manifest_file: str, tmp_path: Path) -> None:
    config = ExtractConfig(manifest=manifest_file, output=str(tmp_path / "run"), max_reject_fraction=0.03)
    assert extract.run(config) == "too_many_rejects"  # 1 of 25
    assert not (tmp_path / "run" / "_SUCCESS").exists()
    assert len(rows(config.output)) == 24


def test_augmented_copies_are_reproducible_rows_beside_the_originals(manifest_file: str, tmp_path: Path) -> None:
    runs = []
    for name, num_actors in (("a", 1), ("b", 2)):
        config = ExtractConfig(
            manifest=manifest_file, output=str(tmp_path / name), augment=("stretch-pitch",), copies=2,
            num_actors=num_actors,
        )  # fmt: skip
        assert extract.run(config) == "ok"
        runs.append(rows(config.output))
    assert runs[0].equals(runs[1])
    assert sorted(runs[0]["copy_index"].to_pylist()) == [0] * 24 + [1] * 24 + [2] * 24
    drawn = [json.loads(text) for text in runs[0]["transform_params"].to_pylist()]
    drawn = [one for one in drawn if one]  # a field that changes nothing, as a pitch of 0, is left out
    assert len(drawn) == 48
    assert all(0.8 <= one["stretch"] <= 1.25 and -2 <= one.get("pitch_semitones", 0) <= 2 for one in drawn)


def test_a_bucket_gives_the_same_rows_as_a_folder(extracted: str, clips: Path, bucket: str, tmp_path: Path) -> None:
    client = boto3.client("s3")
    for path in clips.glob("*/*.wav"):
        client.upload_file(str(path), bucket, f"in/{path.relative_to(clips)}")
    listed = f"s3://{bucket}/manifest.parquet"
    assert manifest.run(ManifestConfig(input=f"s3://{bucket}/in", output=listed, folds=2)) == "ok"
    output = f"s3://{bucket}/run"
    assert extract.run(ExtractConfig(manifest=listed, output=output)) == "ok"
    assert rows(output).equals(rows(extracted))


def test_a_clip_changed_after_the_manifest_is_rejected(clips: Path, bucket: str) -> None:
    client = boto3.client("s3")
    for i, path in enumerate(sorted(clips.glob("high/*.wav"))):
        client.upload_file(str(path), bucket, f"in/high/{i}.wav")
    listed, output = f"s3://{bucket}/manifest.parquet", f"s3://{bucket}/run"
    manifest.run(ManifestConfig(input=f"s3://{bucket}/in", output=listed))
    client.put_object(Bucket=bucket, Key="in/high/0.wav", Body=b"other bytes")
    client.delete_object(Bucket=bucket, Key="in/high/1.wav")
    extract.run(ExtractConfig(manifest=listed, output=output, segment_s=1.0))
    rejects = [
        row
        for name in storage.names_in(f"{output}/rejects")
        for row in parquet_files.read(f"{output}/rejects/{name}").to_pylist()
    ]
    found = {row["uri"].rsplit("/", 1)[-1]: row["error"] for row in rejects}
    assert found == {"0.wav": "ChangedClipError", "1.wav": "MissingClipError"}


def test_an_error_of_the_store_in_a_worker_arrives_as_itself(manifest_file: str, tmp_path: Path, bucket: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "data").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="data"):
        extract.run(ExtractConfig(manifest=manifest_file, output=str(tmp_path / "run"), segment_s=1.0))


def test_a_manifest_rewritten_after_planning_stops_the_job(
    manifest_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "m.parquet"
    mine.write_bytes(Path(manifest_file).read_bytes())
    run_units = extract.run_units

    def rewritten_first(*args: Any) -> Iterator[dict[str, Any]]:
        pq.write_table(pq.read_table(mine).slice(0, 5), mine)
        yield from run_units(*args)

    monkeypatch.setattr(extract, "run_units", rewritten_first)
    with pytest.raises(StorageError, match=r"m\.parquet: no longer the manifest"):
        extract.run(ExtractConfig(manifest=str(mine), output=str(tmp_path / "run"), segment_s=1.0))
    assert not list((tmp_path / "run").glob("data/*.parquet"))


def test_pictures_are_finite_and_padding_is_silence(extracted: str) -> None:
    examples = shards.load([extracted], copies=False)
    assert np.isfinite(examples.log_mel).all()
    for picture, valid in zip(examples.log_mel, examples.valid_frames, strict=True):
        assert (picture[:, valid + 1 :] == -100).all()  # one frame beyond may still touch the last samples
