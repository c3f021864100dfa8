"""Objects on S3 as files: read whole or by range, written whole by one request or in parts."""

import contextlib
import functools
import io
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from audioclf import s3, s3_faults
from audioclf.errors import AudioclfError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 64 << 20
"""Objects up to this size are written by one PUT, larger ones in parts of it."""


def read(uri: str, etag: str | None = None) -> bytes:
    """A whole object; with an ETag, only if it has that one."""
    bucket, key = s3.split(uri)
    match: dict[str, Any] = {} if etag is None else {"IfMatch": etag}
    return s3.retrying(uri, lambda client: _body(client.get_object(Bucket=bucket, Key=key, **match)))


def upload(uri: str, file: BinaryIO) -> None:
    """Make a seekable file's content an object, which appears as a whole: by one PUT, or in parts if it is large."""
    bucket, key = s3.split(uri)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size <= PART_BYTES:
        data = file.read()
        s3.retrying(uri, lambda client: client.put_object(Bucket=bucket, Key=key, Body=data))
        return
    begun = s3.retrying(uri, lambda client: client.create_multipart_upload(Bucket=bucket, Key=key))
    place: Any = {"Bucket": bucket, "Key": key, "UploadId": begun["UploadId"]}
    try:
        parts: Any = []
        while data := file.read(PART_BYTES):
            part = {"PartNumber": len(parts) + 1}
            send = functools.partial(_send_part, {**place, **part, "Body": data})
            parts.append({**part, "ETag": s3.retrying(uri, send)})
        s3.retrying(uri, _Completion({**place, "MultipartUpload": {"Parts": parts}}, size))
    except BaseException:
        # What can't be removed now, the store's life-cycle rules remove.
        with contextlib.suppress(*s3_faults.library_errors()):
            s3.client().abort_multipart_upload(**place)
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
            return s3.retrying(self._uri, lambda client: self._request(client, start, stop))
        except AudioclfError as error:
            self._failure = error
            raise

    def _request(self, client: "S3Client", start: int, stop: int) -> tuple[bytes, int, str | None]:
        from botocore.exceptions import ClientError, IncompleteReadError

        bucket, key = s3.split(self._uri)
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
