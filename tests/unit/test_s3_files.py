"""Objects read by range and written piece by piece, over a connection that breaks."""

import functools
import io
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import boto3
import numpy as np
import pytest

from audioclf import s3, s3_files, storage
from audioclf.errors import ChangedClipError, MissingClipError, StorageError
from audioclf.s3 import Patience
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy

CONTENT = random.Random(0).randbytes(3 * storage.RANGE_BLOCK_BYTES + 5)


# --- Ranges


def test_opening_costs_one_request_and_a_small_object_no_other(proxy: FaultProxy, s3_bucket: str) -> None:
    for size in (0, 1, storage.RANGE_BLOCK_BYTES):
        storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT[:size])
        before = proxy.requests
        with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
            assert file.seek(0, io.SEEK_END) == size
            file.seek(0)
            assert file.read() == CONTENT[:size]
            assert file.read() == b""
        assert proxy.requests == before + 1


def test_blocks_are_as_large_as_asked_for(proxy: FaultProxy, s3_bucket: str) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    before = proxy.requests
    with storage.open_ranged(f"s3://{s3_bucket}/x", block_bytes=1 << 20) as file:
        while file.read(1000):
            pass
    assert proxy.requests == before + 2  # the first 256 KiB, then the rest, of less than 1 MiB


def test_a_range_that_was_cut_on_its_way_is_asked_for_again(proxy: FaultProxy, s3_bucket: str) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", CONTENT)
    proxy.faults = fault_proxy.first(2, Fault(kept=0.9))  # its Content-Length is right
    with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
        proxy.faults = fault_proxy.first(1, Fault(kept=0.0))  # not the end of the file
        assert file.read() == CONTENT


@pytest.mark.parametrize("listed", [True, False])
def test_an_object_replaced_while_it_is_read_is_refused(
    proxy: FaultProxy, s3_bucket: str, listed: bool, direct: Callable[[str, bytes], None]
) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/in/x", CONTENT)
    (info,) = storage.list_files(f"s3://{s3_bucket}/in")
    with storage.open_ranged(info.uri, info.etag if listed else None) as file:
        direct("in/x", CONTENT[::-1])  # as long as before
        file.seek(-10, io.SEEK_END)
        with pytest.raises(ChangedClipError, match="changed"):
            file.read()
    with pytest.raises(ChangedClipError):
        storage.open_ranged(info.uri, info.etag)
    storage.remove(info.uri)
    with pytest.raises(MissingClipError):
        storage.open_ranged(info.uri, info.etag)


def test_an_object_replaced_between_two_tries_is_refused(
    proxy: FaultProxy, s3_bucket: str, direct: Callable[[str, bytes], None]
) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/in/x", b"before")
    (info,) = storage.list_files(f"s3://{s3_bucket}/in")

    def replace(index: int, method: str, path: str) -> Fault | None:
        direct("in/x", b"after")
        proxy.faults = lambda *_: None
        return fault_proxy.RESET

    proxy.faults = replace
    with pytest.raises(ChangedClipError):
        storage.read_bytes(info.uri, info.etag)


# --- Files written piece by piece


def test_a_created_object_appears_at_the_end(proxy: FaultProxy, s3_bucket: str) -> None:
    uri = f"s3://{s3_bucket}/deep/x"
    with storage.create(uri) as file:
        file.write(CONTENT[:10])
        file.write(memoryview(CONTENT)[10:])
        assert file.tell() == len(CONTENT)
        assert not storage.exists(uri)
    assert storage.read_bytes(uri) == CONTENT
    assert [method for method, _ in proxy.log] == ["HEAD", "PUT", "GET"]
    with pytest.raises(ZeroDivisionError), storage.create(uri) as file:  # noqa: PT012
        file.write(b"other")
        raise ZeroDivisionError
    assert storage.read_bytes(uri) == CONTENT


def test_a_large_object_is_sent_in_parts_each_until_it_arrives(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, direct: Callable[[str, bytes], None]
) -> None:
    monkeypatch.setattr(s3_files, "PART_BYTES", 5 << 20)  # the least that S3 takes
    content = np.random.default_rng(0).bytes((11 << 20) + 1)
    uri = f"s3://{s3_bucket}/x"
    direct("x", b"before")

    def break_each_once(index: int, method: str, path: str) -> Fault | None:
        assert storage_is_as_before()
        return fault_proxy.RESET if proxy.log.count((method, path)) == 1 else None

    def storage_is_as_before() -> bool:
        return past.get_object(Bucket=s3_bucket, Key="x")["Body"].read() == b"before"

    past = boto3.client("s3", endpoint_url=f"http://{proxy.upstream[0]}:{proxy.upstream[1]}")
    proxy.faults = break_each_once
    with storage.create(uri) as file:
        for start in range(0, len(content), 1 << 20):
            file.write(content[start : start + (1 << 20)])
    proxy.faults = lambda *_: None
    assert storage.read_bytes(uri) == content
    assert [method for method, _ in proxy.log[:-1]] == ["POST"] * 2 + ["PUT"] * 6 + ["POST"] * 2


def test_an_upload_whose_end_was_not_answered_is_there(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto forgives a second end of an upload; AWS and others say that they know no such upload."""
    monkeypatch.setattr(s3_files, "PART_BYTES", 5 << 20)
    ends = []

    def lose_the_answer(index: int, method: str, path: str) -> Fault | None:
        if method != "POST" or "uploadId" not in path:
            return None
        ends.append(path)
        return fault_proxy.LOST_ANSWER if len(ends) == 1 else fault_proxy.refusal(404, "NoSuchUpload")

    proxy.faults = lose_the_answer
    storage.write_bytes(f"s3://{s3_bucket}/x", content := bytes(6 << 20))
    assert len(ends) == 2
    assert storage.read_bytes(f"s3://{s3_bucket}/x") == content
    ends[:] = ["answered"]  # an upload that was never ended is not there, whatever lies at its name
    with pytest.raises(StorageError, match="NoSuchUpload"):
        storage.write_bytes(f"s3://{s3_bucket}/x", content)


def test_the_parts_of_a_failed_upload_are_removed(
    proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, impatient: Callable[..., None]
) -> None:
    monkeypatch.setattr(s3_files, "PART_BYTES", 5 << 20)
    impatient()
    proxy.faults = lambda index, method, path: fault_proxy.SLOW_DOWN if "partNumber=2" in path else None
    with pytest.raises(StorageError, match="SlowDown"):
        storage.write_bytes(f"s3://{s3_bucket}/x", bytes(6 << 20))
    assert not storage.exists(f"s3://{s3_bucket}/x")
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=s3_bucket)


# --- Threads


def test_threads_share_one_renewed_client(proxy: FaultProxy, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/x", b"x")
    made: list[object] = []
    make = s3.client.__wrapped__
    barrier = threading.Barrier(8)

    def count(patience: Patience | None = None) -> object:
        made.append(make(patience))
        return made[-1]

    monkeypatch.setattr(s3, "client", functools.cache(count))

    def all_at_once(index: int, method: str, path: str) -> Fault | None:
        if index > 8:  # after the write and the first try of each thread
            return None
        barrier.wait(60)
        return fault_proxy.refusal(400, "ExpiredToken")

    proxy.faults = all_at_once
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(storage.read_bytes, [f"s3://{s3_bucket}/x"] * 8))
    assert results == [b"x"] * 8
    assert len(made) == 2
