"""Requests to S3: one client a process, faults told apart and outlasted, listings.

Every request goes through `retrying`. botocore's own retries are off: they end where the body of an answer begins,
and one loop of retries inside another multiplies the waiting.
"""

import contextlib
import functools
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from audioclf import s3_faults
from audioclf.errors import ConfigError, MissingClipError

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

    def seconds(self, error: Exception) -> float:
        """Seconds from the first failure to the last try, given what came last."""
        return max(self.total_s, self.throttled_s) if s3_faults.throttled(error) else self.total_s


PATIENCE = Patience(total_s=60, answer_s=30, throttled_s=900)
FIRST_CONTACT = Patience(total_s=10, answer_s=6)
"""Of `reach`: a wrong endpoint is told within 20 s."""

BACKOFF_S, BACKOFF_MAX_S = 0.5, 8.0
NOTICE_S = 10
"""A request that fails longer than this is logged."""

AWS_ENDPOINT = re.compile(r"s3([.-][a-z0-9-]+)?\.amazonaws\.com")
"""What boto3 takes of itself; one that the user has set may end so too, of a private network."""

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


def pyarrow_options(uri: str) -> dict[str, str]:
    """Options for pyarrow's S3 client, which reads the AWS variables but for the endpoint, and is not sent on to the
    region of the URI's bucket."""
    scheme, _, host = client().meta.endpoint_url.partition("://")
    told = _ask_for_bucket(uri)["ResponseMetadata"].get("HTTPHeaders", {})  # its region, if the store is AWS
    region = {"region": told.get("x-amz-bucket-region", client().meta.region_name)}
    return region if AWS_ENDPOINT.fullmatch(host) else {**region, "scheme": scheme, "endpoint_override": host}


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
            if now + delay > first_failure + (patience or PATIENCE).seconds(error):
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
    answer = _ask_for_bucket(uri, FIRST_CONTACT)
    if answer["ResponseMetadata"]["HTTPStatusCode"] == 404:
        raise ConfigError(f"{uri}: no such bucket")
    # A refusal of this request is an answer too. The next request says more: this one's has no body.


def _ask_for_bucket(uri: str, patience: Patience | None = None) -> Any:
    """The store's answer of a URI's bucket, be it a refusal: as boto3 has it, without a body.

    Raises:
        StorageError: there is no store.
    """
    bucket, _ = split(uri)

    def ask(client: "S3Client") -> Any:
        from botocore.exceptions import ClientError

        try:
            return client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if s3_faults.may_pass(error):
                raise
            return error.response

    return retrying(uri, ask, patience)


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


def _renew(used: "S3Client", patience: Patience | None) -> None:
    """Forget a client, unless another thread has done so."""
    with _lock:
        if used is (client() if patience is None else client(patience)):
            client.cache_clear()
