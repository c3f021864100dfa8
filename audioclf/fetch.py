"""Rows of a manifest → open files, those on S3 fetched ahead of their turn.

An object that these credentials may not read is its clip's trouble if others of the bucket may be read, and the end of
the job if they may not: rights that were lost would reject all that is left.
"""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa

from audioclf import s3, storage
from audioclf.audio import recording
from audioclf.audio.recording import AudioInfo
from audioclf.errors import AccessDeniedError, ClipError, UnreadableClipError

WHOLE_BYTES = 64 << 20
"""Objects up to this size are fetched by one request, larger ones by range as they are read."""

RANGE_BYTES = 4 << 20

THREADS = 12
"""Requests in flight for each worker: one core decodes as fast as about eight such readers deliver."""

LOOKED_AT = 8
"""Objects of a collection that are tried for one that may be read."""

Opener = Callable[[], BinaryIO]

T = TypeVar("T")


class Fetcher:
    """Opens files in the order of their rows.

    Args:
        ahead_bytes: bound on what is fetched and not yet asked for, but for a single larger file.
        readable_uri: as found by `find_readable`.
    """

    def __init__(self, ahead_bytes: int, readable_uri: str | None = None):
        self._ahead_bytes, self._readable_uri = ahead_bytes, readable_uri
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
            return partial(_read, uri, self._readable_uri, partial(storage.open_ranged, uri, etag, RANGE_BYTES)), 0
        future = self._pool.submit(_read, uri, self._readable_uri, partial(storage.read_bytes, uri, etag))
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
    with _read(uri, readable_uri, partial(storage.open_ranged, uri)) as file:
        return recording.probe(file, storage.display(uri))


def find_readable(uris: Iterable[str]) -> str | None:
    """The first of some objects that may be read, by which the refusal of another is judged; of local files none.

    Raises:
        AccessDeniedError: these credentials may read none of them.
    """
    denied: AccessDeniedError | None = None
    for uri in uris:
        if storage.local_path(uri) is not None:
            return None
        try:
            _read_a_byte(uri)
        except AccessDeniedError as error:
            denied = error
        except ClipError:  # gone meanwhile
            continue
        else:
            return uri
    if denied is not None:
        raise denied
    return None


def spread(uris: pa.ChunkedArray) -> Iterator[str]:
    """Some of them, from all over, for `find_readable`."""
    for i in spread_rows(len(uris)):
        yield uris[i].as_py()


def spread_rows(n_rows: int) -> list[int]:
    """Rows of some clips, from all over."""
    return np.unique(np.linspace(0, n_rows - 1, LOOKED_AT, dtype=int)).tolist() if n_rows else []


def _read(uri: str, readable_uri: str | None, read: Callable[[], T]) -> T:
    """What is read.

    Raises:
        UnreadableClipError: the store refuses this object, but not all of its bucket.
        ClipError, StorageError: as `read` does.
    """
    try:
        return read()
    except AccessDeniedError as error:
        if readable_uri is None or s3.split(uri)[0] != s3.split(readable_uri)[0]:
            raise
        try:
            _read_a_byte(readable_uri)
        except (AccessDeniedError, ClipError):
            raise error from None
        raise UnreadableClipError(
            uri, "fetch", "access denied, though others of this bucket may be read; give these credentials the right to"
        ) from error


def _read_a_byte(uri: str) -> None:
    storage.open_ranged(uri, block_bytes=1).close()
