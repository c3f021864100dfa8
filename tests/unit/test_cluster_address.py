"""The cluster's address: what is told where nothing answers there."""

import socket

import pytest

from audioclf.errors import ClusterError
from audioclf.pipelines import cluster_address


@pytest.mark.parametrize(("value", "expected"), [("", None), ("local", None), ("auto", "auto"), ("10.0.0.1:6379",) * 2])
def test_a_job_runs_where_the_variable_says(value: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", value)
    assert cluster_address.named() == expected


def test_where_nothing_answers_the_variable_and_a_remedy_are_named(closed_port: int) -> None:
    with pytest.raises(ClusterError, match=rf"RAY_ADDRESS=127.0.0.1:{closed_port}: .*refused.*check that the cluster"):
        cluster_address.require(f"127.0.0.1:{closed_port}")
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=ray://127\.0\.0\.1"):
        cluster_address.require(f"ray://127.0.0.1:{closed_port}")


def test_a_port_that_answers_and_an_address_without_one_are_for_ray_to_try() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster_address.require(f"127.0.0.1:{server.getsockname()[1]}")
    cluster_address.require("auto")
