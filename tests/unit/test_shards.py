"""Shards, extraction without Ray, and the check that nothing is lost."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from audioclf import conservation, extraction, layouts, manifest, shards, storage
from audioclf.audio.frontend import get_front_end, log_mel
from audioclf.errors import ConfigError, ConservationError, SchemaError
from audioclf.units import Unit

SPEC = get_front_end("logmel44k")


def row(clip_id: str, fold: int | None = 1, copy_index: int = 0) -> dict:
    return {
        "clip_id": clip_id, "uri": f"file:///{clip_id}", "segment_index": 0, "start_s": 0.0, "copy_index": copy_index,
        "transform_set": "none", "transform_params": "{}", "valid_frames": 2, "labels": [clip_id[0]], "fold": fold,
        "source_id": clip_id, "flags": [], "content_digest": clip_id,
    }  # fmt: skip


def write(folder: Path, rows: list[dict], pictures: np.ndarray, name: str = "unit-0000000.parquet") -> str:
    data = shards.encode(rows, list(pictures), SPEC, pictures.shape[2], "digest", {"clips": len(rows)})
    storage.write_bytes(storage.to_uri(str(folder / "data" / name)), data)
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
    assert table["log_mel"][0].as_py() == list(range(256))  # band by band
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
    with pytest.raises(SchemaError, match="not a shard of version 1"):
        shards.load([str(tmp_path / "three")], copies=False)


# --- extraction, as a plain function


@pytest.fixture
def extract(tmp_path: Path, wav: Callable[..., Path]) -> Callable[..., extraction.UnitCounts]:
    """Extracts every file below tmp_path/in into tmp_path/run as one unit."""

    def run(segment_s: float) -> extraction.UnitCounts:
        clips = layouts.from_folders(layouts.list_audio(storage.to_uri(str(tmp_path / "in"))).files)
        uri = storage.to_uri(str(tmp_path / "m.parquet"))
        manifest.write(manifest.to_table(clips), uri)
        plan = extraction.ExtractPlan(uri, storage.to_uri(str(tmp_path / "run")), SPEC, segment_s, (), 1, 0, "digest")
        extractor = extraction.UnitExtractor(plan)
        counts = extractor(Unit(0, 0, len(clips)))
        extractor.close()
        return counts

    return run


def test_a_clip_becomes_its_log_mel(
    extract: Callable[..., extraction.UnitCounts], tmp_path: Path, wav: Callable
) -> None:
    samples = np.random.default_rng(0).normal(scale=0.1, size=44_100).astype(np.float32)
    wav(samples, 44_100, "in/x/noise.wav", "FLOAT")
    counts = extract(1.0)
    examples = shards.load([str(tmp_path / "run")], copies=False)
    np.testing.assert_array_equal(examples.log_mel[0], log_mel(samples, SPEC).astype(np.float16))
    assert (counts.clips_ok, counts.audio_s) == (1, 1.0)


def test_a_long_clip_becomes_segments_and_a_short_one_is_padded(
    extract: Callable[..., extraction.UnitCounts], tmp_path: Path, wav: Callable
) -> None:
    wav(np.ones(44_100 * 5 // 2) * 0.1, 44_100, "in/x/long.wav")  # 2.5 s: two whole segments and a half
    wav(np.ones(4_410) * 0.1, 44_100, "in/x/short.wav")
    extract(1.0)
    table = pq.read_table(tmp_path / "run" / "data").to_pylist()
    found = sorted((Path(r["uri"]).name, r["segment_index"], r["start_s"], r["valid_frames"]) for r in table)
    assert found == [
        ("long.wav", 0, 0.0, 44), ("long.wav", 1, 1.0, 44), ("long.wav", 2, 2.0, 22), ("short.wav", 0, 0.0, 5),
    ]  # fmt: skip


def test_a_broken_clip_is_a_reject_and_its_neighbours_are_not(
    extract: Callable[..., extraction.UnitCounts], tmp_path: Path, wav: Callable
) -> None:
    wav(np.ones(100), name="in/x/good.wav")
    (tmp_path / "in" / "x" / "bad.wav").write_bytes(b"RIFF")
    wav(np.zeros(0), name="in/x/empty.wav")
    counts = extract(1.0)
    assert (counts.clips, counts.clips_ok, counts.clips_rejected) == (3, 1, 2)
    rejects = pq.read_table(tmp_path / "run" / "rejects").to_pylist()
    assert sorted((Path(r["uri"]).name, r["error"], r["stage"]) for r in rejects) == [
        ("bad.wav", "DecodeError", "decode"), ("empty.wav", "EmptyClipError", "decode"),
    ]  # fmt: skip
    assert all(r["segment_index"] is None and r["message"] for r in rejects)


# --- conservation

WRITTEN = [("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("b", 0, 0), ("b", 0, 1)]
REJECTED = [("a", 1, 1), ("c", None, None)]


def test_rows_that_add_up_pass() -> None:
    conservation.check_unit("u", ["a", "b", "c"], WRITTEN, REJECTED, 2)


@pytest.mark.parametrize(
    ("clip_ids", "written", "rejected", "says"),
    [
        (["a", "b", "c", "d"], WRITTEN, REJECTED, "clip d is neither"),
        (["a", "b"], WRITTEN, REJECTED, "not in its part of the manifest: c"),
        (["a", "b", "c"], [*WRITTEN, ("b", 0, 1)], REJECTED, "more than once"),
        (["a", "b", "c"], WRITTEN, [*REJECTED, ("b", 0, 1)], "more than once"),
        (["a", "b", "c"], WRITTEN, [*REJECTED, ("b", None, None)], "rejected as a whole and has rows"),
        (["a", "b", "c"], WRITTEN[:-1], REJECTED, "clip b lacks segments or copies"),
        (["a", "b", "c"], [("a", 2, 0), ("a", 2, 1), *WRITTEN[:2], *WRITTEN[3:]], REJECTED[1:], "clip a lacks"),
    ],
)
def test_rows_that_do_not_add_up_are_named(clip_ids: list, written: list, rejected: list, says: str) -> None:
    with pytest.raises(ConservationError, match=says):
        conservation.check_unit("u", clip_ids, written, rejected, 2)


def test_the_same_audio_in_two_folds_is_reported(tmp_path: Path) -> None:
    counts = {"clips": 3, "rejects": 0, "reasons": {}, "flags": {"silent": 1}}
    rows = [{**row("a", 1), "content_digest": "same"}, {**row("b", 2), "content_digest": "same"}, row("c", 2)]
    data = shards.encode(rows, list(np.zeros((3, 128, 2), np.float32)), SPEC, 2, "digest", counts)
    uri = storage.to_uri(str(tmp_path))
    storage.write_bytes(f"{uri}/data/unit-0000000.parquet", data)
    plan = extraction.ExtractPlan("", uri, SPEC, 0.02, (), 1, 0, "digest")
    ids = pq.read_table(io.BytesIO(data), columns=["clip_id"])["clip_id"]
    totals = conservation.check(plan, [Unit(0, 0, 3)], ids)
    assert totals.duplicates == [["a", "b"]]
    assert totals.rows["segments"] == {"written": 3}
    assert totals.flags == {"silent": 1}
