"""What training draws from: streamed rows are those in memory, in a good order and within their memory."""

import itertools
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from audioclf import parquet_files, row_index, sampling, shards, storage, training_rows
from audioclf.audio import pcm
from audioclf.audio.frontend import get_front_end
from audioclf.errors import ConfigError, MissingClipError, SchemaError
from audioclf.row_index import RowIndex, group_numbers, read_index
from audioclf.shard_writer import ShardWriter
from audioclf.training_rows import MemoryRows, Plan, Rows, Share, StreamedRows

SPEC = get_front_end("logmel44k")
FRAMES = 4
PICTURE_BYTES = 2 * 128 * FRAMES


def picture(number: int) -> np.ndarray:
    """[128, FRAMES], of a kind for each number below 65,536."""
    return np.full((128, FRAMES), np.uint16(number), np.uint16).view(np.float16)


def number_of(pictures: np.ndarray) -> list[int]:
    """What `picture` was made of."""
    numbers = pictures.view(np.uint16)
    assert (numbers == numbers[:, :1, :1]).all()
    return numbers[:, 0, 0].tolist()


def row(clip: int, segment: int = 0, copy: int = 0, labels: tuple[str, ...] = ("a",), fold: int | None = 1) -> dict:
    return {
        "clip_id": f"{clip:06d}", "uri": f"file:///{clip}", "segment_index": segment, "start_s": 0.0,
        "copy_index": copy, "transform_set": "noise" if copy else "none", "transform_params": "{}",
        "valid_frames": 1 + clip % FRAMES, "labels": list(labels), "fold": fold, "source_id": f"s{clip // 2}",
        "flags": [], "content_digest": "",
    }  # fmt: skip


def write(uri: str, rows: list[dict], numbers: list[int], group_rows: int = 1000, frames: int = FRAMES) -> None:
    samples = (frames - 1) * SPEC.hop_length
    with (
        storage.create(uri) as file,
        ShardWriter(file, SPEC, samples, "digest", group_rows * PICTURE_BYTES) as writer,
    ):
        for one, number in zip(rows, numbers, strict=True):
            writer.add(one, picture(number)[:, :frames])
        writer.finish({})


def write_run(run: str, files: int, clips: int, segments: int = 1, copies: int = 0, group_rows: int = 1000) -> None:
    """Files of so many clips each, which are in no order over files, and of as many rows as pictures differ by."""
    clip_numbers = np.random.default_rng(20_000).permutation(files * clips)
    count = 0
    for file in range(files):
        mine = clip_numbers[file * clips : (file + 1) * clips].tolist()
        rows = [
            row(clip, segment, copy, ("abc"[clip % 3], "xy"[clip % 2]), [1, 2, None][clip % 3])
            for clip in mine
            for segment in range(segments)
            for copy in range(copies + 1)
        ]
        numbers = list(range(count, count + len(rows)))
        count += len(rows)
        write(storage.join(storage.to_uri(run), "data", f"unit-{file:07d}.parquet"), rows, numbers, group_rows)


def streamed(index: RowIndex, window_rows: int) -> StreamedRows:
    rows = StreamedRows(index, index.reading_bytes + 2 * window_rows * index.picture_bytes)
    assert rows.window_rows == window_rows
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """5 files of 12 clips of 2 segments and 2 copies of each: 72 rows a file, 8 in a row group."""
    folder = str(tmp_path_factory.mktemp("run"))
    write_run(folder, files=5, clips=12, segments=2, copies=2, group_rows=8)
    return folder


def shown(rows: Rows, drawn: np.ndarray, plan: Plan) -> list[list[int]]:
    """The pictures of each step of a plan."""
    return [number_of(pictures) for pictures in rows.batches([drawn[mine] for mine in plan.mine])]


def no_thread_left() -> bool:
    return not any(thread.name.startswith(training_rows.THREAD_NAME) for thread in threading.enumerate())


# --- the index


@pytest.mark.parametrize("exclude_fold", [None, 1])
@pytest.mark.parametrize("copies", [True, False])
def test_the_index_has_the_rows_of_shards_in_memory(run: str, copies: bool, exclude_fold: int | None) -> None:
    expected = shards.load([run], copies=copies, exclude_fold=exclude_fold)
    index = read_index([run], copies=copies, exclude_fold=exclude_fold)
    assert (index.front_end, index.shape) == (expected.front_end, expected.pictures.shape[1:])
    for name, column in index.columns.items():
        assert list(column) == expected.columns[name], name
        assert [column[0], column[-1], *column[3:9:2]] == [column.arrow(np.array([i]))[0].as_py()
            for i in (0, len(index) - 1, 3, 5, 7)], name  # fmt: skip
    where = {"uri", "start_s"}  # no matter in training
    assert set(index.columns) == set(expected.columns) - where
    np.testing.assert_array_equal(index.valid_frames, expected.valid_frames)
    loaded = index.load()
    assert number_of(loaded.pictures) == number_of(expected.pictures)
    assert loaded.columns == {name: values for name, values in expected.columns.items() if name not in where}


def test_rows_of_the_index_can_be_taken(run: str) -> None:
    index = read_index([run], copies=True)
    some = np.random.default_rng(0).permutation(len(index))[:50]
    taken = index.take(some)
    everything = index.load()
    assert number_of(taken.load().pictures) == number_of(everything.pictures[some])
    assert list(taken.columns["labels"]) == [everything.columns["labels"][i] for i in some]
    assert taken.valid_frames.tolist() == everything.valid_frames[some].tolist()


def test_several_runs_and_files_without_rows(tmp_path: Path) -> None:
    for name, rows, numbers in (("one", [row(3), row(1)], [3, 1]), ("two", [], []), ("three", [row(2)], [2])):
        write(storage.to_uri(str(tmp_path / name / "data/x.parquet")), rows, numbers)
    index = read_index([str(tmp_path / name) for name in ("two", "one", "three")], copies=True)
    assert list(index.columns["clip_id"]) == ["000001", "000002", "000003"]
    assert number_of(index.load().pictures) == [1, 2, 3]
    with pytest.raises(ConfigError, match="no rows"):
        read_index([str(tmp_path / "two")], copies=True)
    with pytest.raises(ConfigError, match="no rows of fold 9"):
        read_index([str(tmp_path / "one")], copies=True, fold=9)


def test_a_clip_may_say_something_else_in_another_run(tmp_path: Path) -> None:
    """As where a set was labelled anew: each row keeps what its own file says."""
    write(storage.to_uri(str(tmp_path / "one/data/x.parquet")), [row(1, copy=0, labels=("a",))], [0])
    write(storage.to_uri(str(tmp_path / "two/data/x.parquet")), [row(1, copy=1, labels=("b", "c"), fold=None)], [1])
    columns = read_index([str(tmp_path / "two"), str(tmp_path / "one")], copies=True).columns
    assert [list(columns[name]) for name in ("labels", "fold")] == [[["a"], ["b", "c"]], [1, None]]
    assert group_numbers(columns["clip_id"], columns["segment_index"]).tolist() == [0, 0]  # one segment


def test_waveforms_are_rows_as_well(tmp_path: Path) -> None:
    spec = pcm.get_any_front_end("pcm32k")
    waveforms = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (5, 1, 1000), np.int16)
    uri = (tmp_path / "data" / "x.parquet").as_uri()
    with storage.create(uri) as file, ShardWriter(file, spec, 1000, "digest", buffer_bytes=4000) as writer:
        for clip in range(5):
            writer.add(row(clip), waveforms[clip])
        writer.finish({})
    index = read_index([str(tmp_path)], copies=True)
    assert (index.front_end, index.shape, index.picture_bytes) == (spec, (1, 1000), 2000)
    for rows in (MemoryRows(index.load()), streamed(index, 2)):
        given = list(rows.batches([np.array([4, 0, 4]), np.array([1])]))
        assert [batch.dtype for batch in given] == [np.int16, np.int16]
        np.testing.assert_array_equal(np.concatenate(given), waveforms[[4, 0, 4, 1]])


def test_shards_of_another_shape_are_refused(tmp_path: Path) -> None:
    write(storage.to_uri(str(tmp_path / "one/data/x.parquet")), [row(1)], [0])
    write(storage.to_uri(str(tmp_path / "two/data/y.parquet")), [], [], frames=2)
    with pytest.raises(SchemaError, match=r"two/data/y\.parquet: pictures of \[128, 2\], .* have \[128, 4\]"):
        read_index([str(tmp_path / "one"), str(tmp_path / "two")], copies=True)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30))
def test_groups_are_numbered_as_they_appear(pairs: list[tuple[str, int]]) -> None:
    seen: dict[tuple[str, int], int] = {}
    expected = [seen.setdefault(pair, len(seen)) for pair in pairs]
    assert group_numbers([pair[0] for pair in pairs], [pair[1] for pair in pairs]).tolist() == expected


# --- the order of an epoch


def random_draw(n: int, rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    """Rows with replacement: some come several times, some not at all."""
    return rng.integers(0, n, size or n)


@settings(max_examples=40)
@given(
    n_drawn=st.integers(1, 200), batch_size=st.integers(1, 64), window_rows=st.integers(1, 400),
    workers=st.integers(1, 5), seed=st.integers(0, 9),
)  # fmt: skip
def test_the_workers_together_show_every_row_drawn_in_as_many_steps(
    run: str, n_drawn: int, batch_size: int, window_rows: int, workers: int, seed: int
) -> None:
    index = read_index([run], copies=True)
    drawn = random_draw(len(index), np.random.default_rng(seed), n_drawn)
    n_steps = -(-n_drawn // batch_size)
    for rows in (streamed(index, window_rows), MemoryRows(index.load())):
        plans = [
            rows.plan(drawn, batch_size, Share(rank, workers), np.random.default_rng(seed)) for rank in range(workers)
        ]
        for plan in plans:
            assert plan.sizes == [len(part) for part in np.array_split(drawn, n_steps)]
            assert len(plan.mine) == n_steps
        for step, size in enumerate(plans[0].sizes):
            lengths = [len(plan.mine[step]) for plan in plans]
            assert sum(lengths) == size
            assert max(lengths) - min(lengths) <= 1
        everything = np.concatenate([mine for plan in plans for mine in plan.mine])
        assert sorted(everything.tolist()) == list(range(n_drawn))


@pytest.mark.parametrize("window_rows", [1, 7, 8, 50, 100_000])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_streamed_epoch_shows_the_pictures_of_one_in_memory(run: str, window_rows: int, workers: int) -> None:
    index = read_index([run], copies=True)
    everything = shards.load([run], copies=True)
    in_memory, from_shards = MemoryRows(everything), streamed(index, window_rows)
    drawn = random_draw(len(index), np.random.default_rng(3))

    def epoch(rows: Rows) -> list[int]:
        """What all workers show, one after the other."""
        numbers = []
        for rank in range(workers):
            plan = rows.plan(drawn, 16, Share(rank, workers), np.random.default_rng(5))
            steps = shown(rows, drawn, plan)
            assert steps == [number_of(everything.pictures[drawn[mine]]) for mine in plan.mine]
            numbers += [number for step in steps for number in step]
        return numbers

    streamed_numbers, numbers = epoch(from_shards), epoch(in_memory)
    assert Counter(streamed_numbers) == Counter(numbers)
    if workers == 1:
        assert numbers == number_of(everything.pictures[drawn])
    if workers == 1 and window_rows > len(index):  # one window holds all
        assert streamed_numbers == numbers
    assert no_thread_left()


def test_an_epoch_can_be_had_again_and_the_next_is_another(run: str) -> None:
    rows = streamed(read_index([run], copies=True), 50)
    drawn = np.random.default_rng(0).permutation(len(rows))

    def order(seed: int) -> list[int]:
        return [i for mine in rows.plan(drawn, 16, Share(), np.random.default_rng(seed)).mine for i in mine.tolist()]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_order_is_well_shuffled(tmp_path: Path) -> None:
    """20 files of 100 clips, windows of two and a half files: no trace of the order in which rows are stored."""
    write_run(str(tmp_path), files=20, clips=100, group_rows=50)
    index = read_index([str(tmp_path)], copies=True)
    rows = streamed(index, 250)
    stored = index.piece.astype(np.int64) * 50 + index.position

    def order(epoch: int) -> np.ndarray:
        rng = np.random.default_rng([0, epoch])
        drawn = rng.permutation(len(rows))
        plan = rows.plan(drawn, 32, Share(), rng)
        return stored[drawn[np.concatenate(plan.mine)]]

    epochs = [order(epoch) for epoch in range(20)]
    correlations = [np.corrcoef(one, np.arange(len(one)))[0, 1] for one in epochs]  # of ranks
    # Of 40 shuffled row groups: of the order of 1 / sqrt(39) = 0.16; of sorted ones: 1.
    assert np.abs(correlations).max() < 4 * 0.16
    assert abs(np.mean(correlations)) < 4 * 0.16 / np.sqrt(20)
    between = [np.corrcoef(np.argsort(a), np.argsort(b))[0, 1] for a, b in itertools.pairwise(epochs)]
    assert np.abs(between).max() < 4 * 0.16
    # Within a window nothing is left of it: a batch of 32 comes from several of its five row groups or more.
    for one in epochs:
        batches = np.array_split(one, len(one) // 32)
        assert min(len(set((batch // 50).tolist())) for batch in batches) >= 4


def test_within_a_window_every_order_is_as_likely(tmp_path: Path) -> None:
    """Two row groups of three rows, one window: the place of each row over 3,000 epochs."""
    write_run(str(tmp_path), files=2, clips=3)
    rows = streamed(read_index([str(tmp_path)], copies=True), 6)
    places = np.zeros((6, 6), np.int64)
    for epoch in range(3000):
        rng = np.random.default_rng([1, epoch])
        drawn = rng.permutation(6)
        shown_rows = drawn[np.concatenate(rows.plan(drawn, 4, Share(), rng).mine)]
        places[shown_rows, np.arange(6)] += 1
    assert all(chisquare(counts).pvalue > 1e-4 for counts in places)


def test_each_worker_reads_its_part_of_the_row_groups_alone(run: str) -> None:
    index = read_index([run], copies=True)
    rows, drawn = streamed(index, 40), np.random.default_rng(0).permutation(len(index))
    touched = [
        set(index.piece[drawn[np.concatenate(plan.mine)]].tolist())
        for rank in range(3)
        for plan in [rows.plan(drawn, 30, Share(rank, 3), np.random.default_rng(0))]
    ]
    assert sum(map(len, touched)) <= len(index.pieces) + 2  # one is shared at each of the two cuts
    assert set.union(*touched) == set(range(len(index.pieces)))


def test_a_row_group_is_read_once_for_each_window(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index([run], copies=True)
    rows, drawn = streamed(index, 120), np.random.default_rng(0).permutation(len(index))
    read: list[tuple[str, int]] = []
    iter_batches = pq.ParquetFile.iter_batches

    def note(self: pq.ParquetFile, *args: object, **how: object) -> Iterator[object]:
        read.append((str(id(self)), how["row_groups"][0]))  # pyright: ignore[reportIndexIssue]
        return iter_batches(self, *args, **how)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    shown(rows, drawn, rows.plan(drawn, 32, Share(), np.random.default_rng(0)))
    # 45 row groups in three windows: only the two at the cuts may be read twice.
    assert len(index.pieces) == 45
    assert 45 <= len(read) <= 47


def test_rows_for_statistics_are_whole_row_groups(run: str) -> None:
    index = read_index([run], copies=True)
    rows = streamed(index, 40)
    for n in (1, 8, 9, 100, len(index), 10 * len(index)):
        some = rows.sample(n, np.random.default_rng(n))
        assert min(n, len(index)) <= len(some) < n + 8 or len(some) == len(index)
        pieces = index.piece[some]
        assert (np.diff(pieces) >= 0).all()
        assert all((index.piece == piece).sum() == (pieces == piece).sum() for piece in set(pieces.tolist()))
        assert len(set(some.tolist())) == len(some)


def test_labels_of_rows(run: str) -> None:
    index = read_index([run], copies=True)
    some = np.array([5, 0, 5, 300])
    expected = [list(index.columns["labels"])[i] for i in some]
    assert streamed(index, 8).labels(some) == MemoryRows(index.load()).labels(some) == expected


# --- memory


@pytest.mark.parametrize("repeated", [False, True])
def test_streaming_keeps_within_its_memory(tmp_path: Path, repeated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 MB of pictures in row groups of 8 MB; tracemalloc counts NumPy's arrays and what Python reads."""
    frames, clips = 1 << 12, 25
    spec_bytes = 2 * 128 * frames
    noise = np.random.default_rng(0).normal(size=(128, frames))
    for file in range(8):
        uri = (tmp_path / "data" / f"{file}.parquet").as_uri()
        samples = (frames - 1) * SPEC.hop_length
        with storage.create(uri) as out, ShardWriter(out, SPEC, samples, "digest", 8 * spec_bytes) as writer:
            for clip in range(clips):
                writer.add(row(file * clips + clip), noise)
            writer.finish({})
    index = read_index([str(tmp_path)], copies=True)
    picture_bytes, batch = index.picture_bytes, 4
    assert picture_bytes == spec_bytes
    rows = streamed(index, 40)
    drawn = np.random.default_rng(0).permutation(len(index))
    if repeated:  # a window holds a row once, however often it comes
        drawn = np.random.default_rng(0).permutation(np.repeat(drawn[:50], 4))
    allowed = index.reading_bytes + 2 * 40 * picture_bytes + 2 * batch * picture_bytes  # the last: batches handed out
    windows, read = list[list[int]](), RowIndex.read
    monkeypatch.setattr(
        RowIndex, "read", lambda self, rows, stop: windows.append(rows.tolist()) or read(self, rows, stop)
    )
    plan = rows.plan(drawn, batch, Share(), np.random.default_rng(0))
    pool_before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = 0
    try:
        for pictures in rows.batches([drawn[mine] for mine in plan.mine]):
            assert len(pictures) == batch
            most = max(most, pa.total_allocated_bytes() - pool_before)
        peak = tracemalloc.get_traced_memory()[1] + most
    finally:
        tracemalloc.stop()
    assert len(windows) == 5
    assert all(len(set(window)) == len(window) <= 40 for window in windows)
    assert 2 * max(map(len, windows)) * picture_bytes < peak <= allowed < len(drawn) * picture_bytes


# --- what fails


def test_a_damaged_shard_is_named_where_its_window_begins(tmp_path: Path) -> None:
    write_run(str(tmp_path), files=3, clips=30)
    index = read_index([str(tmp_path)], copies=True)
    damaged = tmp_path / "data" / "unit-0000001.parquet"
    content = bytearray(damaged.read_bytes())
    begin = pq.ParquetFile(damaged).metadata.row_group(0).column(7)
    assert begin.path_in_schema == "log_mel"
    at = begin.data_page_offset
    content[at : at + begin.total_compressed_size] = b"\xff" * begin.total_compressed_size
    damaged.write_bytes(content)
    rows, drawn = streamed(index, 30), np.random.default_rng(0).permutation(90)
    with pytest.raises(SchemaError, match=r"unit-0000001\.parquet: damaged"):
        shown(rows, drawn, rows.plan(drawn, 8, Share(), np.random.default_rng(0)))
    assert no_thread_left()


def test_a_shard_that_is_removed_or_replaced_is_named(tmp_path: Path) -> None:
    write_run(str(tmp_path), files=2, clips=10, group_rows=5)
    rows = streamed(read_index([str(tmp_path)], copies=True), 5)
    plan = [np.arange(20)]
    second = tmp_path / "data" / "unit-0000001.parquet"
    write(second.as_uri(), [row(clip) for clip in range(7)], list(range(7)), group_rows=5)
    with pytest.raises(SchemaError, match=r"unit-0000001\.parquet: the shard was replaced"):
        next(rows.batches(plan))
    second.unlink()
    with pytest.raises(MissingClipError, match=r"unit-0000001\.parquet"):
        next(rows.batches(plan))


@pytest.mark.parametrize("raises", [False, True])
def test_stopping_early_ends_the_thread(run: str, raises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a window is being read, which takes as long as nobody stops it."""
    index = read_index([run], copies=True)
    rows, drawn = streamed(index, 40), np.random.default_rng(0).permutation(len(index))
    read, reading = RowIndex.read, threading.Event()
    windows, stopped = 0, list[bool]()

    def endless(self: RowIndex, wanted: np.ndarray, stop: threading.Event | None = None) -> np.ndarray:
        nonlocal windows
        windows += 1
        if windows > 1:
            reading.set()
            stopped.append(stop is not None and stop.wait(60))
        return read(self, wanted, stop)

    monkeypatch.setattr(RowIndex, "read", endless)
    plan = rows.plan(drawn, 16, Share(), np.random.default_rng(0))

    def consume() -> None:
        for _ in rows.batches([drawn[mine] for mine in plan.mine]):
            assert reading.wait(60)
            if raises:
                raise ZeroDivisionError
            return

    if raises:
        with pytest.raises(ZeroDivisionError):
            consume()
    else:
        consume()
    assert no_thread_left()
    assert stopped == [True]
    assert windows == 2


@pytest.mark.parametrize("before", [0, 1, 2, 8])
def test_reading_ends_once_it_is_stopped(run: str, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a row group of eight pictures, which are decoded one at a time, and between files."""
    index = read_index([run], copies=True)
    monkeypatch.setattr(row_index, "BATCH_BYTES", 1)
    stop, decoded, opened = threading.Event(), 0, list[str]()
    to_pictures, open_shard = shards.to_pictures, parquet_files.opened

    def counted(*args: Any) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        if decoded == before:
            stop.set()
        return to_pictures(*args)

    monkeypatch.setattr(shards, "to_pictures", counted)
    monkeypatch.setattr(parquet_files, "opened", lambda uri, *args: opened.append(uri) or open_shard(uri, *args))
    if before == 0:
        stop.set()
    index.read(np.arange(len(index)), stop)
    assert (decoded, len(opened)) == (before, 1 if before else 0)


def test_too_little_memory_is_told_with_what_it_takes(run: str) -> None:
    index = read_index([run], copies=True)
    with pytest.raises(ConfigError, match=r"1 MB of memory are too little .* takes \d+ MB or more"):
        StreamedRows(index, 1_000_000)


# --- S3


def test_rows_stream_from_s3(s3_bucket: str) -> None:
    run = f"s3://{s3_bucket}/run"
    write_run(run, files=3, clips=10, group_rows=4)
    index = read_index([run], copies=True)
    rows, drawn = streamed(index, 8), np.random.default_rng(0).permutation(30)
    plan = rows.plan(drawn, 7, Share(), np.random.default_rng(0))
    assert shown(rows, drawn, plan) == [number_of(index.load().pictures[drawn[mine]]) for mine in plan.mine]
    boto3.client("s3").delete_object(Bucket=s3_bucket, Key="run/data/unit-0000002.parquet")
    with pytest.raises(MissingClipError, match="unit-0000002"):
        shown(rows, drawn, plan)


# --- which rows are drawn


def slowly_drawn(keys: list[tuple[str, int]], weights: list[float], numbers: list[float]) -> list[int]:
    """One row of each segment by the definition; segments as they first appear."""
    drawn = []
    for segment, number in zip(dict.fromkeys(keys), numbers, strict=True):
        rows = [i for i, key in enumerate(keys) if key == segment]
        at, total = number * sum(weights[i] for i in rows), 0.0
        for i in rows:
            total += weights[i]
            if at < total:
                drawn.append(i)
                break
    return drawn


@given(st.data())
def test_rows_are_drawn_by_the_definition(data: st.DataObject) -> None:
    """With weights and numbers in quarters, so that sums are exact."""
    keys = data.draw(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 2)), min_size=1, max_size=25))
    weights = [data.draw(st.integers(1, 4)) / 4 for _ in keys]
    numbers = [data.draw(st.integers(0, 15)) / 16 for _ in set(keys)]
    draw = sampling.RowDraw([key[0] for key in keys], [key[1] for key in keys], np.array(weights))
    assert draw.draw(np.array(numbers)).tolist() == slowly_drawn(keys, weights, numbers)
    assert [keys[i] for i in draw.first_rows] == list(dict.fromkeys(keys))


def test_segments_may_be_drawn_in_any_order_and_several_times() -> None:
    draw = sampling.RowDraw(["a", "a", "b", "c", "c"], [0] * 5, np.array([1.0, 3.0, 1.0, 0.0, 2.0]))
    assert len(draw) == 3
    assert draw.draw(np.array([0.2, 0.9, 0.3, 0.0]), np.array([0, 0, 2, 1])).tolist() == [0, 1, 4, 2]


def test_rows_of_no_weight_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="weight 0"):
        sampling.RowDraw(["a"], [0], np.zeros(1))


def test_balanced_weights_are_sums_of_reciprocals(run: str) -> None:
    labels = [["a"], ["a", "b"], [], ["a", "c"], ["b", "b"], ["unseen"]]
    rows = np.arange(5)  # a: 3 segments, b: 2, c: 1
    expected = [1 / 3, 1 / 3 + 1 / 2, 0, 1 / 3 + 1, 1 / 2]
    assert sampling.balanced_weights(labels, rows) == pytest.approx(expected)
    column = read_index([run], copies=True).columns["labels"]
    some = np.array([3, 50, 77, 200, 333])
    assert sampling.balanced_weights(column, some) == pytest.approx(sampling.balanced_weights(list(column), some))


@given(st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=40).filter(any))
def test_every_class_has_the_same_share_of_balanced_weights(labels: list[set[str]]) -> None:
    """Each label gives 1 in all, whatever its number: the weights sum to the number of classes."""
    weights = sampling.balanced_weights([sorted(clip) for clip in labels], np.arange(len(labels)))
    assert weights.sum() == pytest.approx(len(set.union(*labels)))


def test_segments_come_as_often_as_their_weights_say() -> None:
    weights = np.array([1.0, 0.0, 2.0, 5.0])
    rng = np.random.default_rng(0)
    drawn = np.concatenate([sampling.draw_segments(weights, rng) for _ in range(2000)])
    counts = np.bincount(drawn, minlength=4)
    assert counts[1] == 0
    assert chisquare(counts[[0, 2, 3]], 8000 * np.array([1, 2, 5]) / 8).pvalue > 1e-3
    again = [sampling.draw_segments(weights, np.random.default_rng(3)).tolist() for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(ConfigError, match="no segment has a label"):
        sampling.draw_segments(np.zeros(3), rng)
