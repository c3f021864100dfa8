"""The manifest: identities, digests, damaged files."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from audioclf import manifest, schema, storage
from audioclf.errors import SchemaError
from audioclf.manifest import Clip

CLIP = Clip(
    clip_id="a",
    uri="file:///in/dog/a.wav",
    size_bytes=10,
    etag="1",
    labels=("dog",),
    fold=1,
    source_id="rec",
    duration_s=1.5,
    sample_rate=44_100,
    channels=2,
    recorded_at=datetime(2024, 1, 31, 23, 59, 59, 123456, tzinfo=UTC),
    start_s=0.5,
    end_s=1.25,
)


def digest(folder: Path, *clips: Clip) -> str:
    uri = storage.to_uri(str(folder / "m.parquet"))
    manifest.write(manifest.to_table(list(clips)), uri)
    return manifest.read(uri).digest


def test_an_id_is_a_digest_of_the_path_and_the_part() -> None:
    assert manifest.clip_id("dog/a.wav") == xxhash.xxh3_128_hexdigest(b"dog/a.wav")
    parts = [(None, None), (0.0, None), (None, 0.0), (0.0, 1.0), (0.0, 1.5), (1.0, 1.5)]
    assert len({manifest.clip_id("dog/a.wav", *part) for part in parts}) == len(parts)


def test_every_field_comes_back(tmp_path: Path) -> None:
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([CLIP]), uri)
    (row,) = manifest.read(uri).table.to_pylist()
    assert row == {**{name: getattr(CLIP, name) for name in schema.MANIFEST.names}, "labels": ["dog"]}
    (again,) = manifest.clips_of(manifest.read(uri).table)
    assert again == CLIP


@pytest.mark.parametrize(
    "change",
    [{"uri": "s3://b/in/dog/a.wav"}, {"etag": "2"}, {"recorded_at": None}],
    ids=lambda change: next(iter(change)),
)
def test_where_and_when_do_not_tell_collections_apart(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest(tmp_path, CLIP) == digest(tmp_path, dataclasses.replace(CLIP, **change))


@pytest.mark.parametrize(
    "change",
    [{"clip_id": "b"}, {"size_bytes": 11}, {"labels": ("cat",)}, {"fold": 2}, {"fold": None}, {"source_id": "x"}],
    ids=str,
)
def test_what_is_learnt_from_tells_collections_apart(tmp_path: Path, change: dict[str, Any]) -> None:
    assert digest(tmp_path, CLIP) != digest(tmp_path, dataclasses.replace(CLIP, **change))


def test_order_and_number_of_rows_tell_collections_apart(tmp_path: Path) -> None:
    other = dataclasses.replace(CLIP, clip_id="b")
    assert len({digest(tmp_path, *clips) for clips in ([CLIP], [CLIP, other], [other, CLIP])}) == 3


def test_a_manifest_of_another_version_or_shape_is_refused(tmp_path: Path) -> None:
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([CLIP]).replace_schema_metadata({schema.META_VERSION: "0"}), uri)
    with pytest.raises(SchemaError, match="it has version 0"):
        manifest.read(uri)
    manifest.write(manifest.to_table([CLIP]).drop_columns(["fold"]), uri)
    with pytest.raises(SchemaError, match="not a manifest of version 1"):
        manifest.read(uri)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "m.parquet")
    with pytest.raises(SchemaError, match="it has version none and columns a"):
        manifest.read(uri)


def test_a_manifest_without_clips_is_one(tmp_path: Path) -> None:
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([]), uri)
    assert len(manifest.read(uri).table) == 0


def test_a_slice_of_an_s3_manifest_is_read_in_ranges(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 5)
    clips = [dataclasses.replace(CLIP, clip_id=f"{i:02d}") for i in range(20)]
    uri = f"s3://{s3_bucket}/m.parquet"
    manifest.write(manifest.to_table(clips), uri)
    reader = manifest.SliceReader(uri)
    assert [row["clip_id"] for row in reader.rows(4, 11)] == [f"{i:02d}" for i in range(4, 11)]
    reader.close()
