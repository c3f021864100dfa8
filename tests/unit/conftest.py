"""S3 through a proxy that can break it; a port where nobody listens; torch in one thread."""

import socket
from collections.abc import Callable, Iterator

import boto3
import pytest
import torch

from audioclf import s3
from audioclf.s3 import Patience
from tests.fault_proxy import FaultProxy


@pytest.fixture
def proxy(moto_endpoint: str, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between the client and the server; tries follow one another at once."""
    monkeypatch.setattr(s3, "BACKOFF_S", 0.001)
    monkeypatch.setattr(s3, "BACKOFF_MAX_S", 0.01)
    with FaultProxy(moto_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        s3.client.cache_clear()
        yield proxy
    s3.client.cache_clear()


@pytest.fixture
def direct(s3_bucket: str, moto_endpoint: str) -> Iterator[Callable[[str, bytes], None]]:
    """Puts objects past the proxy."""
    client = boto3.client("s3", endpoint_url=moto_endpoint)
    yield lambda key, data: client.put_object(Bucket=s3_bucket, Key=key, Body=data) and None
    client.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the client give up early."""

    def set_patience(total_s: float = 0.1, answer_s: float = 30.0) -> None:
        monkeypatch.setattr(s3, "PATIENCE", Patience(total_s, answer_s))
        s3.client.cache_clear()

    return set_patience


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, as a worker does."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Of this machine, where nobody listens: bound, so that nobody else takes it."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]
