"""What a job's worker processes find."""

import os
import re
from typing import Any

import pytest
import ray

from audioclf import malloc
from audioclf.errors import ConfigError, StorageError
from audioclf.pipelines import cluster
from audioclf.pipelines.run_units import Stage, map_on_actors


def test_workers_reuse_memory_whatever_they_are_for() -> None:
    found = ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote())
    assert found["GLIBC_TUNABLES"] == malloc.REUSED
    assert found["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"


def test_more_memory_than_there_is_is_refused_where_no_node_will_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wait for it, without a word."""
    stage = Stage(lambda plan: plan, None, memory_mb=cluster.memory_mb() + 1)
    monkeypatch.setattr(cluster, "may_grow", lambda: False)
    with pytest.raises(ConfigError, match=r"--memory-mb \d+: Ray has [\d,]+ MB on this machine"):
        stage.size(2)
    monkeypatch.setattr(cluster, "may_grow", lambda: True)
    assert stage.size(2) == 1


def test_no_more_workers_start_than_there_is_memory_for() -> None:
    def size(memory_mb: int) -> int:
        return Stage(lambda plan: plan, None, memory_mb=memory_mb).size(9)

    assert size(1) == cluster.cpus()
    assert size(cluster.memory_mb() // 2) == 2
    assert size(cluster.memory_mb()) == 1


def test_a_worker_that_cannot_begin_says_why() -> None:
    def make(plan: str) -> Any:
        raise StorageError(f"{plan}: no answer")

    with pytest.raises(StorageError, match=r"^s3://bucket: no answer$"):
        list(map_on_actors([Stage(make, "s3://bucket"), Stage(lambda _: lambda item: item, None)], [1, 2]))


def test_a_cluster_that_gives_nothing_yet_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first worker takes seconds to start: longer than is waited here."""
    monkeypatch.setattr(cluster, "WAIT_TOLD_S", 0.0)
    monkeypatch.setattr(cluster, "may_grow", lambda: True)
    stage = Stage(lambda _: lambda item: item, None, num_actors=1, memory_mb=100)
    assert list(map_on_actors([stage], [1])) == [1]
    (said,) = [record.getMessage() for record in caplog.records if "nothing is done yet" in record.getMessage()]
    assert re.search(r"free in the cluster: [012] of 2 CPUs, 1 of 1 GPUs, [\d,]+ of [\d,]+ MB;", said)
    assert "; a worker takes 1 CPU and 100 MB; `ray status` tells" in said


def test_nothing_is_told_of_waiting_where_work_is_done(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "may_grow", lambda: True)
    assert sorted(map_on_actors([Stage(lambda _: lambda item: item, None)], [1, 2])) == [1, 2]
    assert "nothing is done yet" not in caplog.text
