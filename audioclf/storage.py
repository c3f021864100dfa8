"""Files and objects by URI: list, read, read by range, write atomically.

Two kinds of URI: `file:///…` with a percent-encoded path, so that any byte may stand in a file name, and
`s3://bucket/key` with the key as it is. Where a person types one, a plain local path does as well. S3
credentials and endpoint come from the standard AWS variables.
"""

import io
import os
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from audioclf import s3
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
    """A URI without trailing slash from a URI or a local path."""
    for scheme, root in (("s3://", ""), ("file://", "/")):
        if path_or_uri.startswith(scheme):
            return scheme + (path_or_uri.removeprefix(scheme).rstrip("/") or root)
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
    """All files below a folder or prefix, hidden ones left out, in no particular order.

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
        for path, stat in _walk(os.fspath(root)):
            yield FileInfo(
                "file://" + quote(path), quote(path[skip:]), stat.st_size, str(stat.st_mtime_ns), stat.st_mtime
            )
    except OSError as error:
        raise StorageError(f"{error.filename}: {error.strerror}") from error


def _walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder. Links are followed, but for those to a folder they lie in: a circle."""
    folders = [folder]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    if not (entry.is_symlink() and _lies_in(folder, entry.path)):
                        folders.append(entry.path)
                elif entry.is_file():
                    yield entry.path, entry.stat()


def _lies_in(folder: str, other: str) -> bool:
    """Whether a folder is another, or lies somewhere below it."""
    return Path(folder).resolve().is_relative_to(Path(other).resolve())


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
        bucket, key = s3.split(uri)
        match: dict[str, Any] = {} if etag is None else {"IfMatch": etag}
        with s3.errors(uri):
            return s3.client().get_object(Bucket=bucket, Key=key, **match)["Body"].read()
    try:
        with open(path, "rb") as file:
            if etag is not None and str(os.fstat(file.fileno()).st_mtime_ns) != etag:
                raise ChangedClipError(display(uri), "fetch", "the file changed after the manifest was made")
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


def open_ranged(uri: str) -> BinaryIO:
    """Open a file for reading here and there; on S3 by ranged requests of a few hundred kB."""
    path = local_path(uri)
    if path is not None:
        try:
            return open(path, "rb")
        except OSError as error:
            raise _read_error(uri, error) from error
    return io.BufferedReader(s3.RangeReader(uri), RANGE_BLOCK_BYTES)


def write_bytes(uri: str, data: bytes | memoryview) -> None:
    """Write a file atomically: readers see all of it or nothing."""
    path = local_path(uri)
    if path is None:
        bucket, key = s3.split(uri)
        with s3.errors(uri):
            s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(data))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A hidden name in the same folder: listings skip it, and rename stays atomic.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)  # noqa: PTH101
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108
            raise
    except OSError as error:
        raise StorageError(f"{display(uri)}: {error.strerror or error}") from error


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
    bucket, prefix = s3.split(folder_uri)
    names = []
    with s3.errors(folder_uri):
        pages = (
            s3.client()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=prefix and prefix + "/", Delimiter="/")
        )
        for page in pages:
            common: list[Any] = page.get("CommonPrefixes", [])
            names += [entry["Prefix"].rstrip("/").rsplit("/", 1)[-1] for entry in common]
    return sorted(names)


def remove(uri: str) -> None:
    """Remove a file; one that is not there is no error."""
    path = local_path(uri)
    if path is not None:
        path.unlink(missing_ok=True)
        return
    bucket, key = s3.split(uri)
    with s3.errors(uri):
        s3.client().delete_object(Bucket=bucket, Key=key)


def _read_error(uri: str, error: OSError) -> AudioclfError:
    """What a failed read of a local file means: the file's own trouble, or the store's."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MissingClipError(display(uri), "fetch", "no such file")
    if isinstance(error, PermissionError | IsADirectoryError):
        return UnreadableClipError(display(uri), "fetch", error.strerror or str(error))
    return StorageError(f"{display(uri)}: {error.strerror or error}")


def _list_s3(root_uri: str) -> Iterator[FileInfo]:
    bucket, prefix = s3.split(root_uri)
    prefix = prefix + "/" if prefix else ""
    with s3.errors(root_uri):
        for page in s3.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            contents: list[Any] = page.get("Contents", [])  # the stubs call every field optional
            for entry in contents:
                below = entry["Key"][len(prefix) :]
                if not below or below.endswith("/") or any(part.startswith(".") for part in below.split("/")):
                    continue
                uri = f"s3://{bucket}/{entry['Key']}"
                yield FileInfo(uri, quote(below), entry["Size"], entry["ETag"], entry["LastModified"].timestamp())
