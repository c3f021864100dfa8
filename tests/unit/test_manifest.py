"""The manifest: identities, digests, damaged files."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from audioclf import folds, layouts, manifest, s3, schema, storage
from audioclf.config import ManifestConfig
from audioclf.errors import ConfigError, StorageError
from audioclf.manifest import Clip
from audioclf.pipelines import manifest as pipeline
from audioclf.storage import FileInfo

from .listed import files

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
    with pytest.raises(ConfigError, match="it has version 0"):
        manifest.read(uri)
    manifest.write(manifest.to_table([CLIP]).drop_columns(["fold"]), uri)
    with pytest.raises(ConfigError, match="not a manifest of version 1"):
        manifest.read(uri)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match="it has version none and columns a"):
        manifest.read(uri)


def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([CLIP]), uri)
    some = manifest.read(uri, ["end_s", "clip_id"])
    assert some.table.to_pydict() == {"end_s": [1.25], "clip_id": ["a"]}
    assert some.digest == manifest.read(uri).digest


def test_the_digest_is_of_batches_of_65536_rows(tmp_path: Path) -> None:
    """Computed here from the file as pyarrow reads it: it must stay what runs have been bound to."""
    clips = [dataclasses.replace(CLIP, clip_id=f"{i:06d}", fold=i % 3 or None) for i in range(70_000)]
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table(clips), uri)
    names = ["clip_id", "size_bytes", "labels", "fold", "source_id"]
    hasher = xxhash.xxh3_128()
    for batch in pq.ParquetFile(tmp_path / "m.parquet").iter_batches(65_536, columns=names):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema.remove_metadata()) as stream:
            stream.write_batch(batch)
        hasher.update(sink.getvalue())
    assert manifest.read(uri, ["uri"]).digest == hasher.hexdigest()


def test_a_large_s3_manifest_is_read_in_large_blocks(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 100)
    clips = [dataclasses.replace(CLIP, clip_id=manifest.clip_id(str(i))) for i in range(30_000)]
    uri = f"s3://{s3_bucket}/m.parquet"
    manifest.write(manifest.to_table(clips), uri)
    requests = []
    get_object = s3.client().get_object
    monkeypatch.setattr(s3.client(), "get_object", lambda **query: requests.append(query) or get_object(**query))
    assert manifest.read(uri, ["clip_id"]).table["clip_id"].to_pylist() == [clip.clip_id for clip in clips]
    assert len(requests) <= 4  # the footer in one or two, 300 row groups in one or two


@pytest.mark.parametrize("column", ["source_id", "recorded_at"])
def test_what_some_clips_lack_is_null_or_their_own_id(tmp_path: Path, column: str) -> None:
    bare = Clip("b", "file:///in/b.wav", 10, "1")
    rows = manifest.to_table([CLIP, bare, CLIP])[column].to_pylist()
    assert rows == [getattr(CLIP, column), "b" if column == "source_id" else None, getattr(CLIP, column)]
    assert manifest.to_table([bare])[column].to_pylist() == [rows[1]]


def test_damaged_pages_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    manifest.write(manifest.to_table([CLIP]), storage.to_uri(str(path)))
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(0).dictionary_page_offset or 4
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{path}: .*make it anew with jobs/manifest\.py"):
        manifest.read(storage.to_uri(str(path)))


def numbered(*sources: tuple[str, int | None]) -> pa.Table:
    return manifest.to_table(
        dataclasses.replace(CLIP, clip_id=str(i), uri=f"file:///in/{i}.wav", source_id=source, fold=fold)
        for i, (source, fold) in enumerate(sources)
    )


@given(st.lists(st.sampled_from(["", "a", "b", "ab", "é"]), max_size=20), st.integers(1, 5))
def test_the_first_row_of_a_value_is_found(values: list[str], rows: int) -> None:
    chunks = [values[i : i + rows] for i in range(0, len(values), rows)]
    first = manifest.first_rows(pa.chunked_array(chunks, pa.string()))
    assert first.tolist() == [values.index(value) for value in values]


def test_a_source_in_two_folds_is_named_with_both() -> None:
    manifest.check(numbered(("a", 1), ("b", 2), ("a", 1), ("", 1), ("", 2)))
    manifest.check(numbered(("a", None), ("a", None)))
    manifest.check(numbered())
    with pytest.raises(ConfigError, match=r"^/in/2\.wav: is in fold 3, .* its source 'a' in fold 1: sources must not"):
        manifest.check(numbered(("a", 1), ("b", 2), ("a", 3), ("b", 1)))
    with pytest.raises(ConfigError, match=r"^/in/1\.wav: is in fold None, .* 'a' in fold 0"):
        manifest.check(numbered(("a", 0), ("a", None)))


def test_the_second_row_of_a_clip_is_named() -> None:
    table = numbered(("a", 1), ("b", 1), ("c", 1))
    twice = pa.concat_tables([table, table.slice(1, 1)])
    with pytest.raises(ConfigError, match=r"^/in/1\.wav: named twice"):
        manifest.check(twice)


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


def test_a_manifest_round_trips_with_one_id_for_folder_and_bucket(tmp_path: Path) -> None:
    here = layouts.from_folders(files("dog/1.wav", "cat/2.wav"))
    there = layouts.from_folders(
        [FileInfo(f"s3://b/{f.path}", f.path, 10, "e", 0.0) for f in files("dog/1.wav", "cat/2.wav")]
    )
    written = []
    for name, clips in (("here", here), ("there", there)):
        uri = storage.to_uri(str(tmp_path / name))
        manifest.write(manifest.to_table(clips), uri)
        written.append(manifest.read(uri))
    assert written[0].digest == written[1].digest
    assert written[0].table["clip_id"].equals(written[1].table["clip_id"])
    assert written[0].table["source_id"].equals(written[0].table["clip_id"])  # each a source of its own
    assert pq.read_schema(tmp_path / "here").names == schema.MANIFEST.names


def test_slices_are_the_rows_whatever_the_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 7)
    clips = layouts.from_folders(files(*(f"x/{i:03d}.wav" for i in range(50))))
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table(clips), uri)
    reader = manifest.SliceReader(uri)
    for start, stop in ((0, 50), (6, 8), (7, 14), (49, 50), (0, 1), (13, 29)):
        assert [row["clip_id"] for row in reader.rows(start, stop)] == [clip.clip_id for clip in clips[start:stop]]
    reader.close()


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_a_worker_reads_the_manifest_that_was_planned_from_or_none(tmp_path: Path, place: str, s3_bucket: str) -> None:
    uri = f"s3://{s3_bucket}/m.parquet" if place == "bucket" else storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([CLIP]), uri)
    planned = manifest.read(uri)
    reader = manifest.SliceReader(uri, planned.etag)
    assert [row["clip_id"] for row in reader.rows(0, 1)] == [CLIP.clip_id]
    manifest.write(manifest.to_table([dataclasses.replace(CLIP, labels=("cat",))]), uri)
    with pytest.raises(StorageError, match=r"m\.parquet: no longer the manifest .* run the same command again"):
        manifest.SliceReader(uri, planned.etag).rows(0, 1)
    storage.remove(uri)
    with pytest.raises(StorageError, match=r"m\.parquet: the manifest can't be read on .*: .* where all nodes see it"):
        manifest.SliceReader(uri, planned.etag).rows(0, 1)
    reader.close()


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"text")
    with pytest.raises(ConfigError, match="not a manifest, which"):
        manifest.read(storage.to_uri(str(tmp_path / "x")))
    with pytest.raises(ConfigError, match=r"make it with jobs/manifest\.py"):
        manifest.read(storage.to_uri(str(tmp_path / "absent")))


def test_parts_of_a_file_stay_in_one_fold() -> None:
    text = "path,labels,start_s,end_s\n" + "".join(
        f"{name},{'ab'[i % 2]},{i},{i + 2}\n" for name in ("a.wav", "b.wav", "c.wav") for i in range(6)
    )
    table = manifest.to_table(layouts.from_csv(files("a.wav", "b.wav", "c.wav"), text, "x.csv"))
    dealt = folds.deal(table, 3).to_pylist()
    assert len({row["clip_id"] for row in dealt}) == 18
    of_file = {uri: {row["fold"] for row in dealt if row["uri"] == uri} for uri in table["uri"].to_pylist()}
    assert sorted(map(sorted, of_file.values())) == [[1], [2], [3]]
    by_hand = "path,labels,start_s,end_s,fold\na.wav,x,0,1,1\na.wav,x,1,2,2\n"
    with pytest.raises(ConfigError, match="unless a source_id says otherwise"):
        manifest.check(manifest.to_table(layouts.from_csv(files("a.wav"), by_hand, "x.csv")))


def test_sources_must_not_cross_folds_nor_clips_come_twice() -> None:
    regexes = layouts.Regexes(fold=r"^(\d)", source=r"-(\w)")
    crossing = [regexes.apply(clip) for clip in layouts.from_flat(files("1-a.wav", "2-a.flac"))]
    with pytest.raises(ConfigError, match="sources must not cross folds"):
        manifest.check(manifest.to_table(crossing))
    with pytest.raises(ConfigError, match="named twice"):
        manifest.check(manifest.to_table(layouts.from_flat(files("a.wav", "a.wav"))))


def test_clips_without_a_label_and_classes_that_look_alike_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = {"a": "dog_bark", "b": "Dog bark", "c": "", "d": "siren"}
    for name in labels:
        (tmp_path / f"{name}.wav").touch()
    csv = tmp_path / "clips.csv"
    csv.write_text("path,labels\n" + "".join(f"{name}.wav,{label}\n" for name, label in labels.items()))
    flags: dict[str, Any] = {"input": str(tmp_path), "layout": "csv", "metadata": str(csv)}
    assert pipeline.run(ManifestConfig(**flags, output=str(tmp_path / "m.pq"))) == "ok"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [words.split(":")[0] for words in warnings] == [
        f"--output {tmp_path}/m.pq", "1 of 4 clips have no label", "classes that may be meant as one",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="is a directory; give the name of a file"):
        pipeline.run(ManifestConfig(**flags, output=str(tmp_path)))


def test_a_manifest_put_together_by_hand_names_each_clip_once() -> None:
    ids = pa.chunked_array([["a", "b"], ["c", "b", "a"]])
    manifest.require_each_once(ids[:3], "m.parquet")
    with pytest.raises(ConfigError, match=r"m\.parquet: 2 of its rows .* such as row 3 \(clip_id b\)"):
        manifest.require_each_once(ids, "m.parquet")
