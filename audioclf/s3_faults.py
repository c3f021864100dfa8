"""What the failures of S3 requests mean: a clip's trouble, bad usage, a refusal, or something that passes."""

import functools

from audioclf.errors import (
    AccessDeniedError,
    AudioclfError,
    ChangedClipError,
    ConfigError,
    MissingClipError,
    StorageError,
    UnreadableClipError,
)

PASSING_STATUS = (429, 500, 502, 503, 504)
THROTTLING_CODES = frozenset({
    "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded",
})  # fmt: skip
PASSING_CODES = THROTTLING_CODES | {
    "InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "IncompleteBody", "BadDigest",
}  # fmt: skip

# "400" is all that the answer to a HEAD request says.
STALE_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "400"})

DENIED_CODES = frozenset({"AccessDenied", "403"})

_EXPIRED = "the credentials have expired; renew them (AWS_SESSION_TOKEN and its keys, or AWS_PROFILE)"
_DENIED = "these credentials may not do this; give them the right to, or use others (AWS_ACCESS_KEY_ID, AWS_PROFILE)"
REMEDIES = {
    **dict.fromkeys(STALE_CODES, _EXPIRED),
    **dict.fromkeys(DENIED_CODES, _DENIED),
    "InvalidAccessKeyId": "the store does not know this access key; check AWS_ACCESS_KEY_ID and AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "set the clock of this machine",
}
_NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_CHECK_CREDENTIALS = "check the credentials and rights in the AWS_… variables"
_CHECK_CONNECTION = "check AWS_ENDPOINT_URL, the network and the AWS_… variables"


@functools.cache
def library_errors() -> tuple[type[Exception], ...]:
    """What boto3 raises; urllib3's errors come through where the body of an answer breaks off."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, ResponseParserError, HTTPError


def code_of(error: Exception) -> str:
    """The store's name for the error, or its HTTP status where a body with the name is lacking; "" for no answer."""
    from botocore.exceptions import ClientError

    return error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""


def throttled(error: Exception) -> bool:
    """Whether the store is there, and asks for fewer requests: it may do so until it has divided a prefix."""
    return code_of(error) in THROTTLING_CODES


def words(error: Exception) -> str:
    """The error in the store's own words, if it has any."""
    from botocore.exceptions import ClientError

    said = error.response.get("Error", {}).get("Message") if isinstance(error, ClientError) else str(error)
    return ": ".join(word for word in (code_of(error), said) if word)


def stale(error: Exception) -> bool:
    """Whether fresh credentials may help: they were replaced, or the service that lends them did not answer."""
    return code_of(error) in STALE_CODES or _without_credentials(error)


def _without_credentials(error: Exception) -> bool:
    from botocore.exceptions import CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

    return isinstance(error, NoCredentialsError | PartialCredentialsError | CredentialRetrievalError)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in PASSING_STATUS or code_of(error) in PASSING_CODES
    if isinstance(error, exceptions.SSLError):
        return "CERTIFICATE_VERIFY_FAILED" not in str(error)
    broken = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError,
              exceptions.FlexibleChecksumError, ResponseParserError, HTTPError)  # fmt: skip
    return isinstance(error, broken)


def exhausted(uri: str, error: Exception, tries: int) -> StorageError:
    """The end of patience with a failure that might have passed."""
    from botocore.exceptions import ConnectionError as CannotConnect

    fault = "the store can't be reached" if isinstance(error, CannotConnect) else "the store keeps failing"
    return StorageError(f"{uri}: {fault}, tried {tries} times: {words(error)}; {_CHECK_CONNECTION}")


def explained(uri: str, error: Exception) -> AudioclfError:
    """What a failure of boto3 means: one clip's trouble, bad usage, or the store's."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        remedy = _NO_CREDENTIALS if _without_credentials(error) else _CHECK_CONNECTION
        return StorageError(f"{uri}: {error}; {remedy}")
    code = code_of(error)
    if code in ("NoSuchKey", "404"):
        return MissingClipError(uri, "fetch", "no such object")
    if code in ("PreconditionFailed", "412", "InvalidRange", "416"):
        return ChangedClipError(uri, "fetch", "the object changed after it was listed or opened")
    if code == "InvalidObjectState":
        return UnreadableClipError(uri, "fetch", "the object is archived; restore it first")
    if code == "NoSuchBucket":
        return ConfigError(f"{uri}: no such bucket")
    kind = AccessDeniedError if code in DENIED_CODES else StorageError
    return kind(f"{uri}: {words(error)}; {REMEDIES.get(code, _CHECK_CREDENTIALS)}")
