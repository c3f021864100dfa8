"""What a job's worker processes find."""

import os

import ray

from audioclf import malloc


def test_workers_reuse_memory_whatever_they_are_for() -> None:
    found = ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote())
    assert found["GLIBC_TUNABLES"] == malloc.REUSED
    assert found["AWS_REQUEST_CHECKSUM_CALCULATION"] == "when_required"
