"""Listings as columns, against plain lists."""

import logging
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf import layouts, listing, storage
from audioclf.listing import FileTable, Heartbeat
from audioclf.storage import FileInfo


def infos(root: str, names: list[str]) -> list[FileInfo]:
    """As storage lists them: paths are quoted, and URIs of local files too."""
    in_uri = storage.quote if root.startswith("file") else str
    return [FileInfo(root + in_uri(name), storage.quote(name), i, f'"{i}"', i / 7) for i, name in enumerate(names)]


@given(
    root=st.sampled_from(["file:///", "file:///in%20put/", "s3://bucket/", "s3://bucket/a b/é/"]),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), unique=True, max_size=80),
    rows=st.integers(1, 50),
)
def test_a_table_gives_back_what_was_listed_by_path(root: str, names: list[str], rows: int) -> None:
    files = infos(root, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "BATCH_ROWS", rows)
        table = FileTable(iter(files))
        assert list(table) == sorted(files, key=lambda info: info.path)
    assert len(table) == len(files)
    for info in files:
        assert table.find(info.path) == info
        assert table.find_uri(info.uri) == info
    for absent in {"", "!", "0", "~", "a/b/c/d/e"} - {info.path for info in files}:
        assert table.find(absent) is None
        assert root + absent in {info.uri for info in files} or table.find_uri(root + absent) is None


def test_batches_hold_all_in_order() -> None:
    assert list(listing.batches(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(listing.batches([], 3)) == []


def test_a_listing_is_sorted_whatever_order_the_store_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    files = infos("s3://bucket/in/", [f"{i:03d}.wav" for i in range(100)] + ["notes.txt"])
    monkeypatch.setattr(storage, "list_files", lambda _: random.Random(0).sample(files, len(files)))
    found = layouts.list_audio("s3://bucket/in")
    assert list(found.files) == files[:-1]
    assert found.skipped == {".txt": 1}


def test_long_listings_say_how_far_they_are(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 11.0, 20.0, 21.5])
    monkeypatch.setattr(listing.time, "monotonic", lambda: next(clock))
    heartbeat = Heartbeat("/a%20b", "files found")
    with caplog.at_level(logging.INFO):
        for count in (1, 2_000, 3_000, 4_000_000):
            heartbeat.show(count)
    assert [record.getMessage() for record in caplog.records] == [
        "/a%20b: 2,000 files found so far",
        "/a%20b: 4,000,000 files found so far",
    ]
