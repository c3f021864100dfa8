"""The S3 client behind storage.py: one a process, its errors told apart, ranged reads."""

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from audioclf.errors import ChangedClipError, ConfigError, MissingClipError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 6


@functools.cache
def client() -> "S3Client":
    """One client a process; boto3's are thread-safe."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    try:
        return boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"S3 client: {error}; check the AWS_… variables") from error


def pyarrow_options() -> dict[str, str]:
    """Options for pyarrow's S3 client, which reads the AWS variables but for the endpoint."""
    endpoint = client().meta.endpoint_url
    scheme, _, host = endpoint.partition("://")
    return {"scheme": scheme, "endpoint_override": host, "region": client().meta.region_name}


def split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri}: no bucket in this URI; write s3://bucket/prefix")
    return bucket, key


@contextlib.contextmanager
def errors(uri: str) -> Iterator[None]:
    """Tell apart: gone or changed (one clip), no such bucket (usage), anything else (the store)."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("NoSuchKey", "404"):
            raise MissingClipError(uri, "fetch", "no such object") from error
        if code in ("PreconditionFailed", "412"):
            raise ChangedClipError(uri, "fetch", "the object changed after the manifest was made") from error
        if code == "NoSuchBucket":
            raise ConfigError(f"{uri}: no such bucket") from error
        raise StorageError(f"{uri}: {error}; check the credentials and rights in the AWS_… variables") from error
    except BotoCoreError as error:
        raise StorageError(f"{uri}: {error}; check AWS_ENDPOINT_URL, the network and the AWS_… variables") from error


def size_of(uri: str) -> int | None:
    bucket, key = split(uri)
    try:
        with errors(uri):
            return client().head_object(Bucket=bucket, Key=key)["ContentLength"]
    except MissingClipError:
        return None


class RangeReader(io.RawIOBase):
    """A seekable view of an object; each read is one ranged GET."""

    def __init__(self, uri: str):
        self._uri, self._position = uri, 0
        size = size_of(uri)
        if size is None:
            raise MissingClipError(uri, "fetch", "no such object")
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        bucket, key = split(self._uri)
        with errors(self._uri):
            answer = client().get_object(Bucket=bucket, Key=key, Range=f"bytes={self._position}-{stop - 1}")
            data = answer["Body"].read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
