"""A store that breaks off, slows down, refuses or is gone: what is read and written is right, or a clear error."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioclf import s3, storage
from audioclf.errors import AccessDeniedError, ChangedClipError, ConfigError, MissingClipError, StorageError
from audioclf.s3 import Patience
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy

CONTENT = random.Random(0).randbytes(3 * storage.RANGE_BLOCK_BYTES + 5)

# Of answers to GET only: an answer to PUT or HEAD has no body that could break off.
IN_BODY = {"reset in the body": fault_proxy.RESET_IN_BODY, "short body": fault_proxy.SHORT_BODY}
ANYWHERE = {
    "500": fault_proxy.INTERNAL_ERROR,
    "slow down": fault_proxy.SLOW_DOWN,
    "throttled": fault_proxy.refusal(429, "TooManyRequests"),
    "request timeout": fault_proxy.refusal(400, "RequestTimeout"),
    "reset": fault_proxy.RESET,
    "lost answer": fault_proxy.LOST_ANSWER,
    "hang-up": Fault(asked=False, end="close"),
    "error that breaks off": Fault(status=500, body_part=0.5, end="reset"),
}
READ_FAULTS = ANYWHERE | IN_BODY


def named(faults: dict[str, Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", faults.values(), ids=faults.keys())


# --- What passes is outlasted


@named(READ_FAULTS)
def test_a_whole_object_is_read_in_spite_of(proxy: FaultProxy, s3_bucket: str, fault: Fault) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    proxy.faults, before = fault_proxy.first(3, fault), proxy.requests
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == CONTENT
    assert proxy.requests == before + 4


@named(READ_FAULTS)
def test_ranges_are_read_in_spite_of(proxy: FaultProxy, s3_bucket: str, fault: Fault) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    proxy.faults = fault_proxy.first(2, fault)
    with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
        proxy.faults = fault_proxy.first(2, fault)
        file.seek(-100, io.SEEK_END)
        assert file.read() == CONTENT[-100:]
        proxy.faults = fault_proxy.first(2, fault)
        file.seek(0)
        assert file.read() == CONTENT


@named(ANYWHERE)
def test_an_object_is_written_in_spite_of(proxy: FaultProxy, s3_bucket: str, fault: Fault) -> None:
    proxy.faults = fault_proxy.first(3, fault)
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    assert proxy.requests == 4
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == CONTENT


@named(ANYWHERE)
def test_lists_lookups_and_removals_come_through(proxy: FaultProxy, s3_bucket: str, fault: Fault) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/a/x", b"x")
    proxy.faults = fault_proxy.first(2, fault)
    assert storage.exists(f"s3://{s3_bucket}/a/x")
    proxy.faults = fault_proxy.first(2, fault)
    assert storage.folders_in(f"s3://{s3_bucket}") == ["a"]
    proxy.faults = fault_proxy.first(2, fault)
    storage.remove(f"s3://{s3_bucket}/a/x")
    proxy.faults = fault_proxy.first(2, fault)
    assert not storage.exists(f"s3://{s3_bucket}/a/x")


def test_a_listing_goes_on_at_the_page_that_failed(
    proxy: FaultProxy, s3_bucket: str, direct: Callable[[str, bytes], None]
) -> None:
    for i in range(5):
        direct(f"{i}/x", b"")

    def every_other(index: int, method: str, path: str) -> Fault | None:
        return fault_proxy.SHORT_BODY if index % 2 else None

    proxy.faults = every_other
    pages = list(s3.pages(f"s3://{s3_bucket}", MaxKeys=2))
    assert [entry.get("Key") for page in pages for entry in page.get("Contents", [])] == [f"{i}/x" for i in range(5)]
    assert proxy.requests == 5  # three pages, of which the second and third were asked for twice


def test_random_faults_change_nothing(proxy: FaultProxy, s3_bucket: str) -> None:
    proxy.faults = fault_proxy.randomly(0.4, seed=1)
    contents = {f"s3://{s3_bucket}/{i}": CONTENT[i * 1000 : i * 1500 + 1] for i in range(10)}
    for uri, content in contents.items():
        storage.write_bytes(uri, content)
    for uri, content in contents.items():
        assert storage.read_bytes(uri) == content
        with storage.open_ranged(uri, block_bytes=300) as file:
            assert file.read() == content
    assert proxy.requests > 1.3 * 3 * len(contents)  # many had to be made again


def test_parquet_is_read_right_through_faults(proxy: FaultProxy, s3_bucket: str) -> None:
    table = pa.table({"x": np.random.default_rng(0).random(100_000), "i": range(100_000)})
    with storage.create(f"s3://{s3_bucket}/t.parquet") as file, pq.ParquetWriter(file, table.schema) as writer:
        for start in range(0, table.num_rows, 10_000):
            writer.write_table(table.slice(start, 10_000))
    proxy.faults = fault_proxy.randomly(0.3, seed=2)
    with storage.open_ranged(f"s3://{s3_bucket}/t.parquet") as file:
        assert pq.read_table(file).equals(table)


def test_an_endpoint_that_is_gone_for_a_while_is_waited_for(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    proxy.down()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            proxy.up()

    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=wait))
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == CONTENT
    assert len(waits) == 5
    bounds = [0.001, 0.002, 0.004, 0.008, 0.01]  # BACKOFF_S doubled each time, up to BACKOFF_MAX_S
    assert all(0.5 * bound <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_patience_outlasts_half_a_minute_and_ends_after_a_minute(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BACKOFF_S", 0.5)
    monkeypatch.setattr(s3, "BACKOFF_MAX_S", 8.0)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(s3, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    proxy.down()
    with pytest.raises(StorageError, match="can't be reached, tried"):
        storage.read_bytes(f"s3://{s3_bucket}/x")
    assert 50 < now[0] <= 60
    now[0] = 0.0
    with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL"):
        storage.reach(f"s3://{s3_bucket}/x")
    assert 3 < now[0] <= 10


def test_a_store_that_never_answers_is_given_up(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, impatient: Callable[..., None]
) -> None:
    proxy.faults = fault_proxy.always(fault_proxy.delay(60))
    impatient(answer_s=0.1)
    with pytest.raises(StorageError, match="keeps failing"):
        storage.read_bytes(f"s3://{s3_bucket}/x")
    monkeypatch.setattr(s3, "FIRST_CONTACT", Patience(total_s=0.1, answer_s=0.1))
    with pytest.raises(StorageError, match="keeps failing"):
        storage.reach(f"s3://{s3_bucket}")


def test_a_late_answer_is_no_failure(proxy: FaultProxy, s3_bucket: str) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", b"x")
    proxy.faults, before = fault_proxy.always(fault_proxy.delay(0.05)), proxy.requests
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == b"x"
    assert proxy.requests == before + 1


@named(READ_FAULTS)
def test_what_does_not_pass_is_the_stores_fault(
    proxy: FaultProxy, s3_bucket: str, impatient: Callable[..., None], fault: Fault
) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    impatient()
    with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
        proxy.faults = fault_proxy.always(fault)
        with pytest.raises(StorageError, match=rf"s3://{s3_bucket}/x: the store .* tried \d+ times: .*; check AWS_"):
            storage.read_bytes(f"s3://{s3_bucket}/x")
        with pytest.raises(StorageError, match=f"s3://{s3_bucket}/x"):
            storage.open_ranged(f"s3://{s3_bucket}/x")
        with pytest.raises(StorageError, match=f"s3://{s3_bucket}/x"):
            file.read()


@named(ANYWHERE)
def test_a_write_that_never_succeeds_is_the_stores_fault(
    proxy: FaultProxy, s3_bucket: str, impatient: Callable[..., None], fault: Fault
) -> None:
    impatient()
    proxy.faults = fault_proxy.always(fault, "PUT")
    with pytest.raises(StorageError, match=f"s3://{s3_bucket}/x"):
        storage.write_bytes(f"s3://{s3_bucket}/x", b"x")


def test_a_failed_read_is_not_forgotten(proxy: FaultProxy, s3_bucket: str, impatient: Callable[..., None]) -> None:
    """A decoder in C that swallows the exception of one read must not go on with the next."""
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    impatient()
    with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
        proxy.down()
        with pytest.raises(StorageError) as failure:
            file.read()
        proxy.up()
        for again in (lambda: file.seek(0, io.SEEK_END), file.read):
            with pytest.raises(StorageError) as repeated:
                again()
            assert repeated.value is failure.value


# --- Told apart, and at once


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (404, "NoSuchKey", MissingClipError, "no such object"),
        (412, "PreconditionFailed", ChangedClipError, "changed"),
        (404, "NoSuchBucket", ConfigError, "no such bucket"),
        (403, "AccessDenied", AccessDeniedError, r"AccessDenied.*give them the right"),
        (403, "InvalidAccessKeyId", StorageError, "does not know this access key; check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", StorageError, "check AWS_SECRET_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", StorageError, "clock"),
        (400, "NotHeardOf", StorageError, "NotHeardOf.*check the credentials and rights"),
    ],
)
def test_refusals_are_told_apart_at_once(
    proxy: FaultProxy, s3_bucket: str, status: int, code: str, error: type[Exception], message: str
) -> None:
    proxy.faults = fault_proxy.always(fault_proxy.refusal(status, code))
    actions = [
        lambda: storage.read_bytes(f"s3://{s3_bucket}/x", '"etag"'),
        lambda: storage.open_ranged(f"s3://{s3_bucket}/x", '"etag"'),
        lambda: storage.write_bytes(f"s3://{s3_bucket}/x", b""),
    ]
    for action in actions:
        before = proxy.requests
        with pytest.raises(error, match=message) as raised:
            action()
        assert type(raised.value) is error
        assert f"s3://{s3_bucket}/x" in str(raised.value)
        assert proxy.requests == before + 1


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a credentials file, as a program that renews them does, in place of the variables."""

    def renew(access_key: str) -> None:
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = secret\n"
        )

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return renew


def test_renewed_credentials_are_taken_up(
    proxy: FaultProxy, s3_bucket: str, credentials: Callable[[str], None]
) -> None:
    credentials("before")
    s3.client.cache_clear()
    storage.write_bytes(f"s3://{s3_bucket}/x", b"x")
    credentials("after")
    proxy.faults = fault_proxy.first(1, fault_proxy.refusal(400, "ExpiredToken"))
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == b"x"
    keys = [headers["Authorization"].split("Credential=")[1].split("/")[0] for headers in proxy.headers]
    assert keys == ["before", "before", "after"]


def test_credentials_that_stay_expired_are_asked_for_again_once(proxy: FaultProxy, s3_bucket: str) -> None:
    proxy.faults = fault_proxy.always(fault_proxy.refusal(400, "ExpiredToken"))
    with pytest.raises(StorageError, match="the credentials have expired; renew them"):
        storage.read_bytes(f"s3://{s3_bucket}/x")
    assert proxy.requests == 2
    with pytest.raises(StorageError, match="the credentials have expired; renew them"):
        storage.exists(f"s3://{s3_bucket}/x")  # by HEAD, whose answer has no name for the error


def test_no_credentials_at_all(proxy: FaultProxy, s3_bucket: str, credentials: Callable[[str], None]) -> None:
    s3.client.cache_clear()
    with pytest.raises(StorageError, match=r"Unable to locate credentials; set AWS_ACCESS_KEY_ID"):
        storage.read_bytes(f"s3://{s3_bucket}/x")
    assert proxy.requests == 0


def test_stores_are_reached_or_not(
    proxy: FaultProxy, s3_bucket: str, moto_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.reach(f"s3://{s3_bucket}/in", f"s3://{s3_bucket}/out/deep", storage.to_uri(str(tmp_path / "absent")))
    assert proxy.log == [("HEAD", f"/{s3_bucket}")]
    with pytest.raises(ConfigError, match="s3://absent-bucket: no such bucket"):
        storage.reach("s3://absent-bucket/in")
    proxy.faults = fault_proxy.first(2, fault_proxy.SLOW_DOWN)
    storage.reach(f"s3://{s3_bucket}")
    proxy.faults = fault_proxy.always(fault_proxy.refusal(403, "AccessDenied"))  # of the bucket, not of its objects
    storage.reach(f"s3://{s3_bucket}")
    monkeypatch.setattr(s3, "FIRST_CONTACT", Patience(total_s=0.1, answer_s=6))
    proxy.down()
    with pytest.raises(StorageError, match=f"s3://{s3_bucket}: the store can't be reached.*check AWS_ENDPOINT_URL"):
        storage.reach(f"s3://{s3_bucket}")


def test_a_store_that_asks_for_fewer_requests_is_given_more_time(
    proxy: FaultProxy, direct: Callable[[str, bytes], None], s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", Patience(total_s=0.1, answer_s=30, throttled_s=30))
    direct("x", b"sound")
    proxy.faults = fault_proxy.first(2, fault_proxy.SLOW_DOWN)
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == b"sound"
    proxy.faults = fault_proxy.always(fault_proxy.refusal(503, "ServiceUnavailable"))
    with pytest.raises(StorageError, match="ServiceUnavailable"):
        storage.read_bytes(f"s3://{s3_bucket}/x")
