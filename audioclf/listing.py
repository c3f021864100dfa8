"""Listings of millions of files: kept as columns, found by path, counted while they come in."""

import bisect
import functools
import itertools
import logging
import os
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from audioclf import spelling, storage
from audioclf.storage import FileInfo

log = logging.getLogger("audioclf")

BATCH_ROWS = 65_536
LOG_EVERY_S = 10.0

T = TypeVar("T")

# large_string: all paths lie in one buffer, which may be longer than 2 GiB.
_SCHEMA = pa.schema(
    {"path": pa.large_string(), "size_bytes": pa.int64(), "etag": pa.large_string(), "modified_s": pa.float64()}
)
_STRIDE = 16


def batches(items: Iterable[T], rows: int = BATCH_ROWS) -> Iterator[list[T]]:
    """The items, in lists of `rows`."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, rows)):
        yield batch


class Heartbeat:
    """A log line with a count every ten seconds, for steps that may take minutes."""

    def __init__(self, what: str, noun: str):
        self._what, self._noun, self._last = what, noun, time.monotonic()

    def show(self, count: int) -> None:
        """Log the count where it is time to."""
        now = time.monotonic()
        if now - self._last >= LOG_EVERY_S:
            self._last = now
            log.info("%s: %s %s so far", self._what, f"{count:,}", self._noun)


class FileTable:
    """The files below one folder or prefix, sorted by path.

    A hundred bytes a file, where a FileInfo has a thousand: its URI is made from the folder and the path.
    """

    def __init__(self, files: Iterable[FileInfo]):
        self._root = ""
        parts = [_SCHEMA.empty_table()]
        for batch in batches(files):
            self._root = self._root or _root(batch[0])
            columns = {name: [getattr(info, name) for info in batch] for name in _SCHEMA.names}
            parts.append(pa.table(columns, schema=_SCHEMA))
        unsorted = pa.concat_tables(parts)
        del parts
        order = pc.call_function("sort_indices", [unsorted["path"]])
        self._columns: dict[str, pa.Array] = {}
        for name in _SCHEMA.names:  # one after the other, so that only one is there twice
            self._columns[name] = unsorted[name].combine_chunks().take(order)
            unsorted = unsorted.drop_columns([name])

    @classmethod
    def of(cls, files: Iterable[FileInfo]) -> "FileTable":
        """The files as such a table, if they are none."""
        return files if isinstance(files, FileTable) else cls(files)

    def __len__(self) -> int:
        return len(self._columns["path"])

    def __iter__(self) -> Iterator[FileInfo]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self._rows(start, BATCH_ROWS)

    def find(self, path: str) -> FileInfo | None:
        """The file at a percent-encoded path below the root; if there is none, that of the same name in the other of
        Unicode's forms.
        """
        found = self._find(path)
        return found or next(filter(None, map(self._find, _other_forms(path))), None)

    def _find(self, path: str) -> FileInfo | None:
        start = max(0, bisect.bisect_right(self._landmarks, path) - 1) * _STRIDE
        near = self._columns["path"].slice(start, _STRIDE).to_pylist()
        return next(self._rows(start + near.index(path), 1)) if path in near else None

    def find_uri(self, uri: str) -> FileInfo | None:
        """The file at a URI."""
        if not uri.startswith(self._root):
            return None
        below = uri.removeprefix(self._root)
        return self.find(below if storage.local_path(uri) else storage.quote(below))

    @functools.cached_property
    def _landmarks(self) -> list[str]:
        """Every _STRIDE-th path: what `find` searches first."""
        return self._columns["path"].take(pa.array(range(0, len(self), _STRIDE), pa.int64())).to_pylist()

    def _rows(self, start: int, count: int) -> Iterator[FileInfo]:
        local = self._root.startswith("file://")
        values = [column.slice(start, count).to_pylist() for column in self._columns.values()]
        for path, size_bytes, etag, modified_s in zip(*values, strict=True):
            uri = self._root + (path if local else storage.unquote(path))
            yield FileInfo(uri, path, size_bytes, etag, modified_s)


def _other_forms(path: str) -> list[str]:
    """A percent-encoded path composed and decomposed."""
    if "%" not in path:  # ASCII, of which there is one form
        return []
    return [storage.quote(form) for form in spelling.forms(os.fsdecode(urllib.parse.unquote_to_bytes(path)))]


def _root(info: FileInfo) -> str:
    below = info.path if info.uri.startswith("file://") else storage.unquote(info.path)
    return info.uri.removesuffix(below)


@dataclass(frozen=True)
class Listing:
    """The audio files below an input, and how many others were passed over, by suffix."""

    files: FileTable
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def passed_over(self) -> str:
        """Those that were, in words; empty if none."""
        return ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in sorted(self.skipped.items()))
