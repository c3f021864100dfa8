"""Rows of a manifest → open files, those on S3 fetched ahead of their turn."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

from audioclf import storage
from audioclf.audio import recording
from audioclf.audio.recording import AudioInfo

WHOLE_BYTES = 64 << 20
"""Objects up to this size are fetched by one request, larger ones by range as they are read."""

RANGE_BYTES = 4 << 20

THREADS = 12
"""Requests in flight for each worker: one core decodes as fast as about eight such readers deliver."""

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


def probe(uri: str) -> AudioInfo:
    """What a file's header says.

    Raises:
        ClipError: it can't be read.
        StorageError: the store can't be reached or refuses.
    """
    with storage.open_ranged(uri) as file:
        return recording.probe(file, storage.display(uri))
