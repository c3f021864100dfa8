"""The doctor asks a cluster that is there."""

import pytest
import ray

from audioclf.pipelines import doctor


def test_a_cluster_that_is_there_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    address = ray.get_runtime_context().gcs_address
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(doctor, "CONNECT_S", 120)  # the machine may have much else to do
    finding = doctor.ray_cluster()
    assert finding.status == "ok", finding.found
    assert f"{ray.__version__}, and so is the cluster at {address}: 2 CPUs, 1 GPUs" in finding.found
