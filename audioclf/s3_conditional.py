"""Conditional PUT: write an object only where there is none, or only over the content that was read.

Not every store keeps the conditions, some ignore them without a word, and some (Ceph up to 16) keep If-Match only for
an ETag without its quotes. So they are tried out on an object of their own before anything is built on them.

Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

import email.utils
import enum
import logging
from typing import TYPE_CHECKING, Any

from audioclf import s3, s3_faults
from audioclf.errors import AudioclfError, MissingClipError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("audioclf")

IF_NONE: dict[str, Any] = {"IfNoneMatch": "*"}
_WRONG_ETAG = "0" * 32
_UNMET_CODES = frozenset({"PreconditionFailed", "412", "NoSuchKey", "ConditionalRequestConflict"})


class Outcome(enum.Enum):
    """What became of a conditional PUT."""

    WRITTEN = enum.auto()
    REFUSED = enum.auto()
    """The condition does not hold. Also where it did, but the answer was lost and the PUT made again: read it back."""
    UNKNOWN = enum.auto()
    """The store knows no such condition."""


def if_match(etag: str, quotes: str) -> dict[str, Any]:
    """The condition that an object is still as it was read; `quotes` as found by `proven_quotes`."""
    return {"IfMatch": quotes + etag.strip('"') + quotes}


def put(uri: str, data: bytes, condition: dict[str, Any]) -> Outcome:
    """Write an object under a condition, with the patience of `reach`; an empty condition always holds.

    Raises:
        ConfigError: there is no such bucket.
        StorageError: the store can't be reached or refuses, whatever the condition.
    """
    from botocore.exceptions import ClientError

    bucket, key = s3.split(uri)

    def send(client: "S3Client") -> Outcome:
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except ClientError as error:
            if condition and s3_faults.code_of(error) in _UNMET_CODES:
                return Outcome.REFUSED
            if condition and _not_implemented(error):
                return Outcome.UNKNOWN
            raise
        return Outcome.WRITTEN

    return s3.retrying(uri, send, s3.FIRST_CONTACT)


def read(uri: str) -> tuple[bytes, str] | None:
    """Content and ETag of a small object, None where there is none."""
    bucket, key = s3.split(uri)

    def get(client: "S3Client") -> tuple[bytes, str]:
        answer = client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]

    try:
        return s3.retrying(uri, get, s3.FIRST_CONTACT)
    except MissingClipError:
        return None


def age_s(uri: str) -> float | None:
    """Seconds since an object was written, by the store's own clock (to 1 s); None where there is no object."""
    bucket, key = s3.split(uri)
    try:
        answer = s3.retrying(uri, lambda client: client.head_object(Bucket=bucket, Key=key), s3.FIRST_CONTACT)
    except MissingClipError:
        return None
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        raise StorageError(f"{uri}: the store's answers have no Date, so that the object's age is not known")
    return max(0.0, (email.utils.parsedate_to_datetime(date) - answer["LastModified"]).total_seconds())


def remove(uri: str) -> None:
    """Remove an object; one that is not there is no error."""
    bucket, key = s3.split(uri)
    s3.retrying(uri, lambda client: client.delete_object(Bucket=bucket, Key=key), s3.FIRST_CONTACT)


def proven_quotes(probe_uri: str) -> str | None:
    """How If-Match wants its ETag, found out by trial: in quotes (`"`) or bare (an empty text).

    Args:
        probe_uri: an object that does not exist; made for the trial and removed.

    Returns:
        None where the store does not keep If-None-Match and If-Match.

    Raises:
        ConfigError, StorageError: as `put`.
    """
    try:
        put(probe_uri, b"made", IF_NONE)
        if put(probe_uri, b"made again", IF_NONE) is not Outcome.REFUSED:
            return None
        return next((quotes for quotes in ('"', "") if _keeps_if_match(probe_uri, quotes)), None)
    finally:
        try:
            remove(probe_uri)
        except AudioclfError as error:
            log.warning("%s: not removed: %s", probe_uri, error)


def _keeps_if_match(probe_uri: str, quotes: str) -> bool:
    """Whether a wrong ETag is refused and the right one, in this form, is not."""
    if put(probe_uri, b"over another", if_match(_WRONG_ETAG, quotes)) is not Outcome.REFUSED:
        return False
    before = read(probe_uri)
    if before is None:
        return False
    content = f"over what was read, {quotes}".encode()
    put(probe_uri, content, if_match(before[1], quotes))
    after = read(probe_uri)
    return after is not None and after[0] == content


def _not_implemented(error: Exception) -> bool:
    """Whether a store refuses a request because of what is in it."""
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in (400, 501) and not s3_faults.may_pass(error) and not s3_faults.stale(error)
