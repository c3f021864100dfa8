"""A lock's file, on disk and on S3: made, renewed and taken over so that of several runs only one succeeds.

On disk it appears by a hard link, which fails where there is a file already, and is taken over by renaming it: only
one run gets that file away. If it was a living run's after all, it is given back, and an exclusive flock sees to it
that no third run comes in between. On S3 every step is a conditional PUT.

Where a file system has no flock, or a store is not proven to keep the conditions, whoever has written waits a moment
and reads whose the lock is then.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from audioclf import local_files, s3_conditional
from audioclf.local_files import UNFINISHED
from audioclf.s3_conditional import Outcome

log = logging.getLogger("audioclf")

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links answer."""


class LockFile(Protocol):
    """A small file that several runs write.

    Every method raises StorageError, or ConfigError where the store has no such bucket. Writing tells whether it was
    done; where a store's answer may have been lost, False is no proof that it was not: read it back.
    """

    def read(self) -> bytes | None:
        """Its content; None where there is no such file."""
        ...

    def age_s(self) -> float | None:
        """Seconds since it was written, by the clock of the store; None where there is no such file."""
        ...

    def create(self, data: bytes) -> bool:
        """Write it if there is none."""
        ...

    def renew(self, data: bytes, before: bytes) -> bool:
        """Write one's own anew if it is still as it was last read."""
        ...

    def take_over(self, data: bytes, before: bytes) -> bool:
        """Replace another's if it is still as it was last read."""
        ...

    def remove(self) -> None:
        """Remove it; no error where there is none."""
        ...


class LocalLockFile(LockFile):
    """On a file system.

    Args:
        path: of the file.
        settle_s: seconds to wait after writing on a file system without flock.
    """

    def __init__(self, path: Path, settle_s: float):
        self._path, self._settle_s = path, settle_s

    def read(self) -> bytes | None:
        with self._alone(), contextlib.suppress(FileNotFoundError):
            return self._path.read_bytes()
        return None

    def age_s(self) -> float | None:
        with self._alone(), self._beside(b"") as now, contextlib.suppress(FileNotFoundError):
            os.utime(now)  # the file server's time, not this host's
            return max(0.0, now.stat().st_mtime - self._path.stat().st_mtime)
        return None

    def create(self, data: bytes) -> bool:
        with self._alone() as alone, self._beside(data) as temporary:
            return self._place(temporary) and self._settled(alone)

    def renew(self, data: bytes, before: bytes) -> bool:
        # In place: had another run renamed the file away meanwhile, its own would stay untouched.
        with self._alone(), contextlib.suppress(FileNotFoundError), self._path.open("r+b", buffering=0) as file:
            if file.read() == before:
                os.pwrite(file.fileno(), data, 0)
                file.truncate(len(data))
                return True
        return False

    def take_over(self, data: bytes, before: bytes) -> bool:
        with self._alone() as alone, self._beside(data) as temporary:
            aside = temporary.with_suffix(".aside" + UNFINISHED)
            try:
                self._path.rename(aside)
            except FileNotFoundError:
                return False
            try:
                if aside.read_bytes() == before:
                    return self._place(temporary) and self._settled(alone)
                self._place(aside)  # it is a living run's: given back
                return False
            finally:
                aside.unlink(missing_ok=True)

    def remove(self) -> None:
        with self._alone():
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """No other run is at this file meanwhile; False where the file system can't see to that."""
        with local_files.errors(os.fsencode(self._path).decode(errors="replace")):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = self._flock()
            try:
                yield handle is not None
            finally:
                if handle is not None:
                    fcntl.flock(handle, fcntl.LOCK_UN)  # also if a process forked meanwhile has the handle as well
                    os.close(handle)

    def _flock(self) -> int | None:
        """The folder's flock; NFS knows none of folders, so that an empty file stays beside the lock there."""
        beside = self._path.with_name(f".{self._path.name}.flock")
        for path, flags in ((self._path.parent, os.O_RDONLY), (beside, os.O_RDWR | os.O_CREAT)):
            with contextlib.suppress(OSError):
                handle = os.open(path, flags, 0o666)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX)
                except BaseException:
                    os.close(handle)
                    raise
                return handle
        return None

    def _settled(self, alone: bool) -> bool:
        if not alone:
            time.sleep(self._settle_s)
        return True

    @contextlib.contextmanager
    def _beside(self, data: bytes) -> Iterator[Path]:
        """A hidden file in the same folder, complete."""
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".", suffix=UNFINISHED)
        try:
            with open(handle, "wb") as file:
                os.fchmod(handle, 0o644)
                file.write(data)
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)

    def _place(self, source: Path) -> bool:
        """Give a file the lock's name, unless there is one of that name."""
        try:
            self._path.hardlink_to(source)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with self._path.open("xb", buffering=0) as file:
                    file.write(source.read_bytes())
            except FileExistsError:
                return False
        return True


class S3LockFile(LockFile):
    """On S3.

    Args:
        uri: of the object.
        token: makes the name of the object on which conditions are tried out.
        settle_s: seconds to wait where conditions are not kept, so that all have written before one reads.
    """

    def __init__(self, uri: str, token: str, settle_s: float):
        self._uri, self._token, self._settle_s = uri, token, settle_s
        self._etag = ""

    def read(self) -> bytes | None:
        found = s3_conditional.read(self._uri)
        if found is None:
            return None
        content, self._etag = found
        return content

    def age_s(self) -> float | None:
        return s3_conditional.age_s(self._uri)

    def create(self, data: bytes) -> bool:
        if self._quotes is not None:
            return self._put(data, s3_conditional.IF_NONE)
        self._put(data, {})
        time.sleep(self._settle_s)
        return True

    def renew(self, data: bytes, before: bytes) -> bool:
        return self._put(data, {} if self._quotes is None else s3_conditional.if_match(self._etag, self._quotes))

    def take_over(self, data: bytes, before: bytes) -> bool:
        written = self.renew(data, before)
        if self._quotes is None:
            time.sleep(self._settle_s)
        return written

    def remove(self) -> None:
        s3_conditional.remove(self._uri)

    @functools.cached_property
    def _quotes(self) -> str | None:
        """Of ETags in conditions; None where this store keeps none."""
        quotes = s3_conditional.proven_quotes(f"{self._uri}.probe-{self._token}")
        if quotes is None:
            log.warning(
                "%s: this store keeps no conditional PUT (If-None-Match, If-Match), so the lock is weaker: two runs "
                "that begin within %.1f s of each other may both go on, until a heartbeat of one finds the other",
                self._uri, self._settle_s,
            )  # fmt: skip
        return quotes

    def _put(self, data: bytes, condition: dict[str, Any]) -> bool:
        return s3_conditional.put(self._uri, data, condition) is Outcome.WRITTEN
