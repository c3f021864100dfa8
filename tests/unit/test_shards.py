"""Shards: what is written comes back, to readers of plain Parquet too."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audioclf import parquet_files, shards, storage
from audioclf.audio.frontend import get_front_end
from audioclf.errors import ConfigError, SchemaError
from audioclf.shard_writer import ShardWriter

SPEC = get_front_end("logmel44k")


def row(clip_id: str, fold: int | None = 1, copy_index: int = 0) -> dict:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}", "segment_index": 0, "start_s": 0.0, "copy_index": copy_index,
        "transform_set": "none", "transform_params": "{}", "valid_frames": 2, "labels": [clip_id[0]], "fold": fold,
        "source_id": clip_id, "flags": [], "content_digest": clip_id,
    }  # fmt: skip


def write(
    folder: Path,
    rows: list[dict],
    pictures: np.ndarray,
    name: str = "unit-0000000.parquet",
    buffer_bytes: int = 1 << 20,
) -> str:
    uri = storage.to_uri(str(folder / "data" / name))
    samples = (pictures.shape[2] - 1) * SPEC.hop_length
    with storage.create(uri) as file, ShardWriter(file, SPEC, samples, "digest", buffer_bytes) as writer:
        for one, picture in zip(rows, pictures, strict=True):
            writer.add(one, picture)
        writer.finish({"clips": len(rows)})
    return str(folder)


def test_pictures_come_back_as_float16(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(scale=30, size=(3, 128, 5)).astype(np.float32)
    run = write(tmp_path, [row("b"), row("a"), row("c")], pictures)
    examples = shards.load([run], copies=False)
    assert examples.columns["clip_id"] == ["a", "b", "c"]
    np.testing.assert_array_equal(examples.log_mel, pictures[[1, 0, 2]].astype(np.float16))
    assert examples.front_end == SPEC


def test_a_shard_is_plain_parquet(tmp_path: Path) -> None:
    pictures = np.arange(128 * 2, dtype=np.float32).reshape(1, 128, 2)
    run = write(tmp_path, [row("a")], pictures)
    table = pq.read_table(Path(run, "data", "unit-0000000.parquet"))
    values = np.frombuffer(table["log_mel"][0].as_py(), np.float16)
    assert values.tolist() == list(range(256))  # band by band
    assert table.schema.field("log_mel").metadata == {b"dtype": b"float16", b"shape": b"[128, 2]"}
    assert table["labels"].to_pylist() == [["a"]]


def test_rows_are_chosen_by_fold_and_copy(tmp_path: Path) -> None:
    rows = [row("a", 1), row("a", 1, 1), row("b", 2), row("c", None)]
    run = write(tmp_path, rows, np.zeros((4, 128, 2), np.float32))

    def chosen(**wanted: int | bool | None) -> list[tuple[str, int]]:
        columns = shards.load([run], **wanted).columns  # pyright: ignore[reportArgumentType]
        return list(zip(columns["clip_id"], columns["copy_index"], strict=True))

    assert chosen(copies=False, fold=1) == [("a", 0)]
    assert chosen(copies=True, fold=1) == [("a", 0), ("a", 1)]
    assert chosen(copies=True, exclude_fold=1) == [("b", 0), ("c", 0)]
    with pytest.raises(ConfigError, match="no rows of fold 9"):
        shards.load([run], copies=False, fold=9)


def test_shards_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [row("a")], np.zeros((1, 128, 2), np.float32))
    longer = write(tmp_path / "two", [row("b")], np.zeros((1, 128, 3), np.float32))
    with pytest.raises(SchemaError, match=r"pictures of \[128, 3\], the shards before it have \[128, 2\]"):
        shards.load([one, longer], copies=False)
    (tmp_path / "three" / "data").mkdir(parents=True)
    pq.write_table(
        pq.read_table(tmp_path / "one" / "data").replace_schema_metadata(), tmp_path / "three/data/x.parquet"
    )
    with pytest.raises(SchemaError, match="not a shard of version 2"):
        shards.load([str(tmp_path / "three")], copies=False)


def test_a_long_shard_is_written_in_pieces_and_reads_as_one(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).normal(scale=30, size=(7, 128, 5)).astype(np.float32)
    run = write(tmp_path, [row(f"c{i}") for i in range(7)], pictures, buffer_bytes=2 * 2 * 128 * 5)
    file = Path(run, "data", "unit-0000000.parquet")
    assert pq.ParquetFile(file).num_row_groups == 4  # two pictures each
    np.testing.assert_array_equal(shards.load([run], copies=False).log_mel, pictures.astype(np.float16))
    assert shards.read_unit(file.as_uri(), ["clip_id"])[1] == {"clips": 7}


def test_a_unit_without_rows_is_a_file_all_the_same(tmp_path: Path) -> None:
    run = write(tmp_path, [], np.zeros((0, 128, 5), np.float32))
    table, counts = shards.read_unit(Path(run, "data", "unit-0000000.parquet").as_uri(), ["clip_id", "log_mel"])
    assert (len(table), counts) == (0, {"clips": 0})


@pytest.mark.parametrize("damage", ["pages", "footer"])
def test_damage_names_its_shard_whatever_reads_it(tmp_path: Path, damage: str) -> None:
    pictures = np.random.default_rng(0).normal(scale=30, size=(3, 128, 5)).astype(np.float32)
    run = write(tmp_path, [row("a"), row("b"), row("c")], pictures)
    file = Path(run, "data", "unit-0000000.parquet")
    content = bytearray(file.read_bytes())
    bad = range(4, 2000) if damage == "pages" else range(len(content) - 400, len(content) - 8)
    for i in bad:
        content[i] ^= 0xFF
    file.write_bytes(content)
    uri = file.as_uri()
    readers = [
        parquet_files.read,
        lambda uri: shards.read_unit(uri, ["clip_id"]),
        lambda uri: shards.load_files([uri], copies=True),
    ]
    if damage == "footer":
        readers.append(parquet_files.metadata)
    for read in readers:
        with pytest.raises(SchemaError, match=r"unit-0000000\.parquet: damaged"):
            read(uri)
