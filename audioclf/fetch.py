"""Rows of a manifest → open files, those on S3 fetched ahead of their turn.

An object that these credentials may not read is its clip's trouble if others of the bucket may be read, and the end of
the job if they may not: rights that were lost would reject all that is left. So is a file that its disk does not read.
"""

import contextlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from audioclf import s3, storage
from audioclf.audio import recording
from audioclf.audio.recording import AudioInfo
from audioclf.errors import AccessDeniedError, ClipError, DiskError, StorageError, UnreadableClipError

WHOLE_BYTES = 64 << 20
"""Objects up to this size are fetched by one request, larger ones by range as they are read."""

RANGE_BYTES = 4 << 20

THREADS = 12
"""Requests in flight for each worker: one core decodes as fast as about eight such readers deliver."""

LOOKED_AT = 8
"""Files of a collection that are tried for one that can be read."""

Opener = Callable[[], BinaryIO]


class Fetcher:
    """Opens files in the order of their rows.

    Args:
        ahead_bytes: bound on what is fetched and not yet asked for, but for a single larger file.
    """

    def __init__(self, ahead_bytes: int):
        self._ahead_bytes = ahead_bytes
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")

    def __call__(
        self, clips: Iterable[dict[str, Any]], in_part: bool = False
    ) -> Iterator[tuple[dict[str, Any], Opener]]:
        """Each clip with the function that opens its file or raises the ClipError or StorageError of its fetching.

        Args:
            clips: rows of a manifest.
            in_part: only some of each file is wanted: it is fetched by range as it is read, not as a whole.
        """
        waiting: deque[tuple[dict[str, Any], Opener, int]] = deque()
        ahead = 0
        for clip in clips:
            opener, size = self._start(clip, in_part)
            while waiting and ahead + size > self._ahead_bytes:
                done, done_opener, done_size = waiting.popleft()
                ahead -= done_size
                yield done, done_opener
            waiting.append((clip, opener, size))
            ahead += size
            if size == 0:  # nothing to fetch ahead
                while waiting:
                    done, done_opener, done_size = waiting.popleft()
                    ahead -= done_size
                    yield done, done_opener
        for clip, opener, _ in waiting:
            yield clip, opener

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, clip: dict[str, Any], in_part: bool) -> tuple[Opener, int]:
        """The opener of a clip, and how much is being fetched for it."""
        uri, etag, size = clip["uri"], clip["etag"], clip["size_bytes"]
        if in_part or storage.local_path(uri) is not None or size > min(WHOLE_BYTES, self._ahead_bytes):
            return partial(storage.open_ranged, uri, etag, RANGE_BYTES), 0
        future = self._pool.submit(storage.read_bytes, uri, etag)
        return lambda: io.BytesIO(future.result()), size


def probe(uri: str, readable_uri: str | None = None) -> AudioInfo:
    """What a file's header says.

    Args:
        uri: of the file.
        readable_uri: as found by `find_readable`.

    Raises:
        ClipError: it can't be read.
        StorageError: the store can't be reached or refuses.
    """
    with own_trouble(uri, readable_uri), storage.open_ranged(uri) as file:
        return recording.probe(file, storage.display(uri))


@contextlib.contextmanager
def own_trouble(uri: str, readable_uri: str | None) -> Iterator[None]:
    """Raise what keeps a file from being read as its clip's trouble, if another file can be read all the same.

    Args:
        uri: what is read in the with-block.
        readable_uri: the other file, as found by `find_readable`.

    Raises:
        UnreadableClipError: in place of an AccessDeniedError or DiskError that is of this file alone.
    """
    try:
        yield
    except (AccessDeniedError, DiskError) as error:
        if readable_uri is None or _place(uri) != _place(readable_uri):
            raise
        try:
            _read_a_byte(readable_uri)
        except (AccessDeniedError, DiskError, ClipError):
            raise error from None
        fault, remedy = (
            ("access denied", "give these credentials the right to")
            if isinstance(error, AccessDeniedError)
            else ("the disk can't read it", "replace the file, and look after the disk")
        )
        message = f"{fault}, though it reads others; {remedy}"
        raise UnreadableClipError(storage.display(uri), "fetch", message) from error


def find_readable(uris: Iterable[str]) -> str | None:
    """The first of some files that can be read, by which the trouble of another is judged.

    Raises:
        AccessDeniedError, DiskError: none of them can be read.
    """
    trouble: StorageError | None = None
    for uri in uris:
        try:
            _read_a_byte(uri)
        except (AccessDeniedError, DiskError) as error:
            trouble = error
        except ClipError:  # gone meanwhile
            continue
        else:
            return uri
    if trouble is not None:
        raise trouble
    return None


def spread(uris: pa.ChunkedArray) -> Iterator[str]:
    """Some of them, from all over, for `find_readable`."""
    for i in spread_rows(len(uris)):
        yield uris[i].as_py()


def spread_rows(n_rows: int) -> list[int]:
    """Rows of some clips, from all over."""
    return np.unique(np.linspace(0, n_rows - 1, LOOKED_AT, dtype=int)).tolist() if n_rows else []


def _place(uri: str) -> str | int | None:
    """The bucket, or the disk; None: not even that can be told."""
    path = storage.local_path(uri)
    if path is None:
        return s3.split(uri)[0]
    try:
        return path.stat().st_dev
    except OSError:
        return None


def _read_a_byte(uri: str) -> None:
    with storage.open_ranged(uri, block_bytes=1) as file:
        if storage.local_path(uri) is not None:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
        file.read(1)
