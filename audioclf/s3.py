"""S3 behind storage.py: one client a process, faults told apart and outlasted, reads by range, uploads.

Every request goes through `retrying`. botocore's own retries are off: they end where the body of an answer begins,
and one loop of retries inside another multiplies the waiting.
"""

import contextlib
import functools
import io
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from audioclf import s3_faults
from audioclf.errors import AudioclfError, ConfigError, MissingClipError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ListObjectsV2OutputTypeDef

log = logging.getLogger("audioclf")

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long a store may fail, in seconds."""

    total_s: float
    """A request is made again this long after its first failure."""
    answer_s: float
    """For a connection, and for each piece of an answer to come."""
    throttled_s: float = 0
    """As total_s, if longer, where the store answers and asks for fewer requests."""

    def for_(self, error: Exception) -> float:
        """Seconds from the first failure to the last try, given what came last."""
        return max(self.total_s, self.throttled_s) if s3_faults.throttled(error) else self.total_s


PATIENCE = Patience(total_s=60, answer_s=30, throttled_s=900)
FIRST_CONTACT = Patience(total_s=10, answer_s=6)
"""Of `reach`: a wrong endpoint is told within 20 s."""

BACKOFF_S, BACKOFF_MAX_S = 0.5, 8.0
NOTICE_S = 10
"""A request that fails longer than this is logged."""

PART_BYTES = 64 << 20
"""Objects up to this size are written by one PUT, larger ones in parts of it."""

_jitter = random.Random()
_lock = threading.Lock()


@functools.cache
def client(patience: Patience | None = None) -> "S3Client":
    """One client a process (and one for `reach`); boto3's are thread-safe."""
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    answer_s = (patience or PATIENCE).answer_s
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=min(answer_s, 10),
        read_timeout=answer_s,
        max_pool_connections=32,
        request_checksum_calculation="when_required",  # other stores than AWS refuse checksums they do not know
    )
    try:
        return Session().client("s3", config=config)  # a session of its own reads the credentials anew
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"S3 client: {error}; check the AWS_… variables") from error


def pyarrow_options() -> dict[str, str]:
    """Options for pyarrow's S3 client, which reads the AWS variables but for the endpoint."""
    endpoint = client().meta.endpoint_url
    scheme, _, host = endpoint.partition("://")
    return {"scheme": scheme, "endpoint_override": host, "region": client().meta.region_name}


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI.

    Raises:
        ConfigError: there is no bucket in it.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri}: no bucket in this URI; write s3://bucket/prefix")
    return bucket, key


def retrying(uri: str, operation: Callable[["S3Client"], T], patience: Patience | None = None) -> T:
    """The result of an operation that is done again while the store fails in a way that may pass.

    Args:
        uri: for messages.
        operation: gets the client; done twice, it must do no harm. It reads the bodies of its answers itself, so
            that one that breaks off is asked for again.
        patience: PATIENCE if None.

    Raises:
        MissingClipError, ChangedClipError: there is no such object, or not with this ETag.
        ConfigError: there is no such bucket.
        StorageError: the store refuses, or it still fails when patience ends.
    """
    first_failure: float | None = None
    tries, renewed, noticed = 0, False, False
    while True:
        with _lock:  # not as many clients as there are threads
            used = client() if patience is None else client(patience)
        try:
            tries += 1
            return operation(used)
        except s3_faults.library_errors() as error:
            if not renewed and s3_faults.stale(error):
                renewed = True
                _renew(used, patience)
                continue
            if not s3_faults.may_pass(error):
                raise s3_faults.explained(uri, error) from error
            now = time.monotonic()
            first_failure = now if first_failure is None else first_failure
            delay = _jitter.uniform(0.5, 1.0) * min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(tries - 1, 20))
            if now + delay > first_failure + (patience or PATIENCE).for_(error):
                raise s3_faults.exhausted(uri, error, tries) from error
            if not noticed and now - first_failure > NOTICE_S:
                noticed = True
                log.warning("%s: %s; still trying", uri, s3_faults.words(error))
        time.sleep(delay)


@contextlib.contextmanager
def errors(uri: str) -> Iterator[None]:
    """Raise failures of boto3 as what they mean, without trying again."""
    try:
        yield
    except s3_faults.library_errors() as error:
        raise s3_faults.explained(uri, error) from error


def reach(uri: str) -> None:
    """Whether the bucket of a URI can be reached, with little patience: for the beginning of a job.

    Raises:
        ConfigError: there is no such bucket.
        StorageError: there is no store.
    """
    bucket, _ = split(uri)

    def ask(client: "S3Client") -> None:
        from botocore.exceptions import ClientError

        try:
            client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if s3_faults.code_of(error) == "404":
                raise ConfigError(f"{uri}: no such bucket") from error
            if s3_faults.may_pass(error):
                raise
            # A refusal of this request is an answer too. The next request says more: this one's has no body.

    retrying(uri, ask, FIRST_CONTACT)


def size_of(uri: str) -> int | None:
    """Bytes of an object, None where there is none."""
    bucket, key = split(uri)
    try:
        return retrying(uri, lambda client: client.head_object(Bucket=bucket, Key=key))["ContentLength"]
    except MissingClipError:
        return None


def pages(uri: str, **query: Any) -> Iterator["ListObjectsV2OutputTypeDef"]:
    """The pages of a listing of a bucket, each asked for until it comes."""
    bucket, _ = split(uri)
    while True:
        page = retrying(uri, lambda client: client.list_objects_v2(Bucket=bucket, **query))
        yield page
        if not page.get("IsTruncated"):
            return
        query["ContinuationToken"] = page.get("NextContinuationToken")


def read(uri: str, etag: str | None = None) -> bytes:
    """A whole object; with an ETag, only if it has that one."""
    bucket, key = split(uri)
    match: dict[str, Any] = {} if etag is None else {"IfMatch": etag}
    return retrying(uri, lambda client: _body(client.get_object(Bucket=bucket, Key=key, **match)))


def upload(uri: str, file: BinaryIO) -> None:
    """Make a seekable file's content an object, which appears as a whole: by one PUT, or in parts if it is large."""
    bucket, key = split(uri)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size <= PART_BYTES:
        data = file.read()
        retrying(uri, lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))
        return
    begun = retrying(uri, lambda client: client.create_multipart_upload(Bucket=bucket, Key=key))
    place: Any = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
    try:
        parts: Any = []
        while data := file.read(PART_BYTES):
            part = {"PartNumber": len(parts) + 1}
            send = functools.partial(_send_part, {**place, **part, "Body": data})
            parts.append({**part, "ETag": retrying(uri, send)})
        retrying(uri, _Completion({**place, "MultipartUpload": {"Parts": parts}}, size))
    except BaseException:
        # What can't be removed now, the store's life-cycle rules remove.
        with contextlib.suppress(*s3_faults.library_errors()):
            client().abort_multipart_upload(**place)
        raise


class RangeReader(io.RawIOBase):
    """A seekable view of an object, as it is when it is opened; each read is one ranged GET.

    Opening fetches the first bytes, which tells size and ETag as well. Once a read has failed, every later read and
    seek raises the same error, so that a decoder that swallows it can't take the object for a shorter one.

    Args:
        uri: of the object.
        etag: as listed; another content is refused. If None, that of the first answer.
        first_bytes: fetched at once.

    Raises:
        MissingClipError, ChangedClipError: the object went away or was replaced, now or while it is read.
        StorageError: the store can't be reached or refuses.
    """

    def __init__(self, uri: str, etag: str | None = None, first_bytes: int = 1 << 16):
        self._uri, self._etag, self._position = uri, etag, 0
        self._failure: AudioclfError | None = None
        self._first, self._size, self._etag = self._get(0, first_bytes)

    @property
    def etag(self) -> str | None:
        """Of the content that is read."""
        return self._etag

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._failure is not None:
            raise self._failure
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._first[self._position : stop] or self._get(self._position, stop)[0]
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        blocks = []
        while block := self.read(min(self._size - self._position, PART_BYTES)):
            blocks.append(block)
        return b"".join(blocks)

    def _get(self, start: int, stop: int) -> tuple[bytes, int, str | None]:
        """Bytes [start, stop) as far as there are any, the object's size and its ETag."""
        if self._failure is not None:
            raise self._failure
        try:
            return retrying(self._uri, lambda client: self._request(client, start, stop))
        except AudioclfError as error:
            self._failure = error
            raise

    def _request(self, client: "S3Client", start: int, stop: int) -> tuple[bytes, int, str | None]:
        from botocore.exceptions import ClientError, IncompleteReadError

        bucket, key = split(self._uri)
        match: dict[str, Any] = {} if self._etag is None else {"IfMatch": self._etag}
        try:
            answer: Any = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", **match)
        except ClientError as error:
            if start == 0 and s3_faults.code_of(error) in ("InvalidRange", "416"):  # an empty object has no first byte
                return b"", 0, self._etag
            raise
        size = answer["ContentLength"]  # of the whole object, if a store answers with that
        if "ContentRange" in answer:
            first, size = map(int, re.findall(r"(\d+)-\d+/(\d+)", answer["ContentRange"])[0])
        elif start == 0 and size <= stop:
            first = 0
        else:
            raise StorageError(f"{self._uri}: the store does not answer requests for ranges of bytes")
        data = _body(answer)
        expected = min(stop, size) - start
        if first != start or len(data) != expected:
            raise IncompleteReadError(actual_bytes=len(data), expected_bytes=expected)
        return data, size, answer.get("ETag", self._etag)


def _body(answer: Any) -> bytes:
    """The body of an answer, of the length that was promised."""
    from botocore.exceptions import IncompleteReadError

    data, promised = answer["Body"].read(), answer.get("ContentLength")
    if promised is not None and len(data) != promised:
        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=promised)
    return data


def _send_part(request: Any, client: "S3Client") -> str:
    return client.upload_part(**request)["ETag"]


class _Completion:
    """The last request of an upload in parts, which may be made again: its answer may have been lost."""

    def __init__(self, request: Any, size: int):
        self._request, self._size, self._made = request, size, False

    def __call__(self, client: "S3Client") -> None:
        made, self._made = self._made, True
        try:
            client.complete_multipart_upload(**self._request)
        except s3_faults.library_errors() as error:
            if not (made and s3_faults.code_of(error) == "NoSuchUpload" and self._is_there(client)):
                raise

    def _is_there(self, client: "S3Client") -> bool:
        found = client.head_object(Bucket=self._request["Bucket"], Key=self._request["Key"])
        return found["ContentLength"] == self._size


def _renew(used: "S3Client", patience: Patience | None) -> None:
    """Forget a client, unless another thread has done so."""
    with _lock:
        if used is (client() if patience is None else client(patience)):
            client.cache_clear()
