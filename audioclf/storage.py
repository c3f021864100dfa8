"""Files and objects by URI: list, read, read by range, write atomically.

Two kinds of URI: `file:///…` with a percent-encoded path, so that any byte may stand in a file name, and
`s3://bucket/key` with the key as it is. Where a person types one, a plain local path does as well. S3
credentials and endpoint come from the standard AWS variables. S3 requests that fail in a way that may pass are made
again for a minute (s3.PATIENCE) before they are a StorageError.
"""

import contextlib
import functools
import io
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from audioclf import local_files, local_listing, read_ahead, s3, s3_files, s3_listing
from audioclf.errors import (
    AudioclfError,
    ChangedClipError,
    ClipError,
    ConfigError,
    MissingClipError,
    StorageError,
    UnreadableClipError,
)

RANGE_BLOCK_BYTES = 1 << 18  # a header and its neighbours come in one request


@dataclass(frozen=True)
class FileInfo:
    """One file of a listing."""

    uri: str
    path: str
    """Percent-encoded path below the listed folder: the same in a folder and in a bucket."""
    size_bytes: int
    etag: str
    """The object's ETag, or the modification time in ns of a local file."""
    modified_s: float
    """Time of the last modification, seconds since 1970."""


def to_uri(path_or_uri: str) -> str:
    """A URI without trailing slash from a URI or a local path.

    Raises:
        ConfigError: nothing, or a scheme that is neither.
    """
    if not path_or_uri:
        raise ConfigError("an empty path or URI: is a variable of the shell not set?")
    for scheme, root in (("s3://", ""), ("file://", "/")):
        if path_or_uri.startswith(scheme):
            return scheme + (path_or_uri.removeprefix(scheme).rstrip("/") or root)
    if path_or_uri.lower().startswith("s3:/"):  # one slash, or another case: else a local folder of that name
        raise ConfigError(f"{path_or_uri}: write s3://{path_or_uri[4:].lstrip('/')}")
    if "://" in path_or_uri:
        scheme = path_or_uri.split("://")[0]
        raise ConfigError(f"{path_or_uri}: {scheme}:// is not supported; give a local path or s3://bucket/prefix")
    absolute = os.path.abspath(os.path.expanduser(path_or_uri))  # noqa: PTH100, PTH111 (keeps odd bytes and links)
    return "file://" + quote(absolute)


def join(uri: str, *names: str) -> str:
    """Append path components, which must need no percent-encoding."""
    return "/".join([uri.rstrip("/"), *names])


def quote(path: str) -> str:
    """Percent-encode a path or key, whatever bytes its name holds."""
    return urllib.parse.quote_from_bytes(os.fsencode(path), safe="/")


def unquote(path: str) -> str:
    """Undo `quote` for reading: bytes that are not UTF-8 become U+FFFD."""
    return urllib.parse.unquote(path, errors="replace")


@functools.lru_cache(maxsize=64)  # of a clip it is asked five times
def local_path(uri: str) -> Path | None:
    """The local path of a file:// URI, None for other stores."""
    if not uri.startswith("file://"):
        return None
    return Path(os.fsdecode(urllib.parse.unquote_to_bytes(uri[len("file://") :])))


def display(uri: str) -> str:
    """The URI as a person would type it."""
    path = local_path(uri)
    return uri if path is None else os.fsencode(path).decode(errors="replace")


def list_files(root_uri: str) -> Iterator[FileInfo]:
    """All files below a folder or prefix, hidden ones and lost+found left out, in no particular order.

    Raises:
        ConfigError: there is no such folder or bucket.
        StorageError: the store can't be reached or refuses.
    """
    root = local_path(root_uri)
    if root is None:
        yield from _list_s3(root_uri)
        return
    if not root.is_dir():
        raise ConfigError(f"{display(root_uri)}: no such folder")
    skip = len(os.path.join(os.fspath(root), ""))  # noqa: PTH118
    try:
        for path, stat in local_listing.files(os.fspath(root)):
            yield FileInfo(
                "file://" + quote(path), quote(path[skip:]), stat.st_size, str(stat.st_mtime_ns), stat.st_mtime
            )
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}") from error


def read_bytes(uri: str, etag: str | None = None) -> bytes:
    """The whole content of a file.

    Args:
        uri: what to read.
        etag: as listed; when given, other content than listed is refused.

    Raises:
        MissingClipError, ChangedClipError: the file went away or was replaced.
        StorageError: the store can't be reached or refuses.
    """
    path = local_path(uri)
    if path is None:
        return s3_files.read(uri, etag)
    with _open_local(uri, path, etag) as file:
        try:
            return file.read()
        except OSError as error:
            raise _read_error(uri, error) from error


def read_text(uri: str) -> str:
    """The content of a text file the user named.

    Raises:
        ConfigError: there is no such file, or it is not UTF-8.
    """
    try:
        return read_bytes(uri).decode()
    except ClipError as error:
        raise ConfigError(f"{display(uri)}: {error.message}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{display(uri)}: not UTF-8 text: {error}") from error


def open_ranged(uri: str, etag: str | None = None, block_bytes: int = RANGE_BLOCK_BYTES) -> BinaryIO:
    """Open a file for reading here and there.

    Args:
        uri: what to read.
        etag: as listed; when given, other content than listed is refused. An object that is replaced while it is
            open is refused in any case.
        block_bytes: read by each request from S3. The first, which tells the size, reads 256 KiB at most.

    Raises:
        MissingClipError, ChangedClipError: the file went away or was replaced; on S3 reading raises them as well.
        StorageError: the store can't be reached or refuses; on S3 reading raises it as well.
    """
    path = local_path(uri)
    if path is not None:
        return _open_local(uri, path, etag)
    return io.BufferedReader(s3_files.RangeReader(uri, etag, min(block_bytes, RANGE_BLOCK_BYTES)), block_bytes)


def etag_of(opened: BinaryIO) -> str | None:
    """The ETag of what `open_ranged` opened; None for an empty object."""
    return cast(Any, opened).raw.etag


def _open_local(uri: str, path: Path, etag: str | None) -> BinaryIO:
    try:
        file = local_files.Reader(path, display(uri))
        if etag is not None and file.etag != etag:
            file.close()
            raise ChangedClipError(display(uri), "fetch", "the file changed after it was listed")
        return io.BufferedReader(file)
    except OSError as error:
        raise _read_error(uri, error) from error


def write_bytes(uri: str, data: bytes | memoryview) -> None:
    """Write a file atomically: readers see all of it or nothing.

    Raises:
        StorageError: the disk is full, or the store can't be reached or refuses.
    """
    with create(uri) as file:
        file.write(data)


@contextlib.contextmanager
def create(uri: str) -> Iterator[BinaryIO]:
    """A file to be written piece by piece, which appears as a whole where the with-block ends without an exception.

    On S3 it waits in memory, or in the folder of temporary files once it is larger than 64 MiB, and is sent at the
    end.

    Raises:
        StorageError: the disk is full, or the store can't be reached or refuses. Of the file's methods as well.
    """
    path = local_path(uri)
    if path is None:
        with local_files.Spool(max_size=s3_files.PART_BYTES) as spool:
            yield cast(BinaryIO, spool)
            with local_files.errors(tempfile.gettempdir()):
                spool.flush()
            s3_files.upload(uri, cast(BinaryIO, spool))
        return
    with local_files.create(path, display(uri)) as file:
        yield file


def reach(*uris: str) -> None:
    """Make sure that stores can be reached before a job begins: a wrong endpoint is told within 20 s.

    Args:
        uris: what the job will read and write, as typed; local ones are passed over.

    Raises:
        ConfigError: there is no such bucket.
        StorageError: a store can't be reached.
    """
    remote = [uri for uri in map(to_uri, uris) if local_path(uri) is None]
    for bucket_uri in sorted({f"s3://{s3.split(uri)[0]}" for uri in remote}):
        s3.reach(bucket_uri)


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at this URI."""
    path = local_path(uri)
    if path is not None:
        return path.is_file()
    return s3.size_of(uri) is not None


def names_in(folder_uri: str) -> dict[str, FileInfo]:
    """The files directly in a folder by name; empty where there is no such folder."""
    path = local_path(folder_uri)
    if path is not None and not path.is_dir():
        return {}
    return {info.path: info for info in list_files(folder_uri) if "/" not in info.path}


def folders_in(folder_uri: str) -> list[str]:
    """The names of the folders directly in a folder, sorted; none where there is no such folder."""
    path = local_path(folder_uri)
    if path is not None:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []
    _, prefix = s3.split(folder_uri)
    names = []
    for page in s3.pages(folder_uri, Prefix=prefix and prefix + "/", Delimiter="/"):
        common: list[Any] = page.get("CommonPrefixes", [])  # the stubs call every field optional
        names += [entry["Prefix"].rstrip("/").rsplit("/", 1)[-1] for entry in common]
    return sorted(names)


def remove(uri: str) -> None:
    """Remove a file; one that is not there is no error."""
    path = local_path(uri)
    if path is not None:
        with local_files.errors(display(uri)):
            path.unlink(missing_ok=True)
        return
    bucket, key = s3.split(uri)
    s3.retrying(uri, lambda client: client.delete_object(Bucket=bucket, Key=key))


def remove_all(folder_uri: str) -> None:
    """Remove a folder, or all objects below a prefix; one that is not there is no error."""
    path = local_path(folder_uri)
    if path is None:
        for _ in read_ahead.each(remove, (info.uri for info in list_files(folder_uri))):
            pass
    elif path.is_dir():
        with local_files.errors(display(folder_uri)):
            shutil.rmtree(path)


def remove_unfinished(folder_uri: str) -> None:
    """Remove what killed processes have left half-written in a local folder; S3 keeps nothing half-written."""
    path = local_path(folder_uri)
    if path is not None:
        local_files.remove_unfinished(path)


def _read_error(uri: str, error: OSError) -> AudioclfError:
    """What a failed read of a local file means: the file's own trouble, or the store's."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingClipError(display(uri), "fetch", "no such file")
    if isinstance(error, PermissionError | IsADirectoryError):
        return UnreadableClipError(display(uri), "fetch", error.strerror or str(error))
    return local_files.read_error(display(uri), error)


def _list_s3(root_uri: str) -> Iterator[FileInfo]:
    bucket, prefix = s3.split(root_uri)
    prefix = prefix + "/" if prefix else ""
    for entry in s3_listing.objects(bucket, prefix):
        below = entry["Key"][len(prefix) :]
        parts = below.split("/")
        hidden = any(part.startswith(".") for part in parts) or parts[0] == local_listing.LOST_AND_FOUND
        if not below or below.endswith("/") or hidden:
            continue
        uri = f"s3://{bucket}/{entry['Key']}"
        yield FileInfo(uri, quote(below), entry["Size"], entry["ETag"], entry["LastModified"].timestamp())
