"""Local files that appear whole, and say what failed where it fails: libraries between them and us swallow an OSError,
or pass it on as anyone's."""

import contextlib
import errno
import io
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from audioclf.errors import DiskError, StorageError

UNFINISHED = ".tmp"
"""What the hidden name of a file ends in while it is written."""

ABANDONED_S = 3600.0
"""Seconds after the last write to such a file."""

WRITE_BLOCK_BYTES = 1 << 20


class Reader(io.FileIO):
    """Raises a failed read again at each later one: libsndfile takes the first for the file's end."""

    def __init__(self, path: Path, name: str):
        super().__init__(path, "rb")
        self._name = name
        self._failed: StorageError | None = None

    @property
    def etag(self) -> str:
        """What stands for a local file's content in listings: its modification time in ns."""
        return str(os.fstat(self.fileno()).st_mtime_ns)

    def readinto(self, buffer: Any) -> int:
        self._raise_again()
        try:
            return super().readinto(buffer)
        except OSError as error:
            self._failed = read_error(self._name, error)
            raise self._failed from error

    def readall(self) -> bytes:
        self._raise_again()
        try:
            return super().readall()
        except OSError as error:
            self._failed = read_error(self._name, error)
            raise self._failed from error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._raise_again()
        return super().seek(offset, whence)

    def _raise_again(self) -> None:
        if self._failed is not None:
            raise self._failed


def read_error(name: str, error: OSError) -> StorageError:
    """What a failed read means, of a file that is there and may be read."""
    kind = DiskError if error.errno == errno.EIO else StorageError
    return kind(f"{name}: {error.strerror or error}")


class Writer(io.FileIO):
    """Raises a failed write as StorageError."""

    def __init__(self, handle: int, name: str):
        super().__init__(handle, "wb")
        self._name = name

    def write(self, data: Any) -> int:
        with errors(self._name):
            return super().write(data)


class Spool(tempfile.SpooledTemporaryFile[bytes]):
    """Memory first, then a file in the folder of temporary files."""

    def write(self, data: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        with errors(tempfile.gettempdir()):
            return super().write(data)


@contextlib.contextmanager
def errors(name: str) -> Iterator[None]:
    """Raise what the disk refuses as StorageError that names the file and, for a full disk, the remedy."""
    try:
        yield
    except OSError as error:
        full = {errno.ENOSPC: "no space left on the disk", errno.EDQUOT: "no space left in the disk quota"}
        if error.errno in full:
            message = f"{full[error.errno]}; free some and run the same command again"
        else:
            message = error.strerror or str(error)
        raise StorageError(f"{name}: {message}") from error


@contextlib.contextmanager
def create(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file to be written, which appears as a whole where the with-block ends without an exception.

    Raises:
        StorageError: it can't be written. Of the file's methods as well.
    """
    with errors(name):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hidden name in the same folder: listings skip it, and rename stays atomic.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=UNFINISHED)
    file = io.BufferedWriter(Writer(handle, name), WRITE_BLOCK_BYTES)
    try:
        yield file
        with errors(name):
            file.flush()
            os.fsync(handle)  # or a crash of the machine may leave the name without its content
            file.close()
            os.chmod(temporary, 0o644)  # noqa: PTH101
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError, StorageError):  # closing writes what is left
            file.close()
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes have left half-written in a folder, if there is one.

    What was written to in the last hour stays: another run may be at it.
    """
    for file in folder.glob(f".*{UNFINISHED}"):
        with contextlib.suppress(FileNotFoundError):
            if file.stat().st_mtime < time.time() - ABANDONED_S:
                file.unlink()
