"""cluster.yaml, as Ray's own launcher reads it. The one unit test that imports Ray."""

import copy
import re
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def validate(cluster: dict[str, Any]) -> None:
    """What `ray up` does before it talks to AWS."""
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate(cluster)


def test_ray_refuses_a_wrong_field(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_wrkers"):
        validate({**cluster, "max_wrkers": 3})


def test_ray_refuses_a_wrong_field_of_a_node_type(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["cpu"]["min_wrkers"] = 0
    with pytest.raises(jsonschema.ValidationError, match="min_wrkers"):
        validate(cluster)


def test_ec2_knows_every_field_of_the_nodes(cluster: dict[str, Any]) -> None:
    """Ray passes node_config to EC2's RunInstances unseen."""
    request = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    assert request is not None
    for node_type in cluster["available_node_types"].values():
        report = ParamValidator().validate({**node_type["node_config"], "MinCount": 1, "MaxCount": 1}, request)
        assert not report.has_errors(), report.generate_report()


def test_the_head_runs_no_tasks(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]


def test_workers_start_from_none(cluster: dict[str, Any]) -> None:
    workers = cluster["available_node_types"]
    assert workers["cpu"]["min_workers"] == 0
    assert workers["cpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert workers["gpu"]["min_workers"] == 0
    assert workers["gpu"]["resources"]["GPU"] == 1


def test_nodes_get_the_pinned_environment(cluster: dict[str, Any]) -> None:
    setup = "\n".join(cluster["setup_commands"])
    assert "rubberband-cli" in setup
    assert "--require-hashes ~/requirements.lock" in setup
    assert cluster["file_mounts"]["~/requirements.lock"] == "requirements.lock"
    assert (ROOT / "requirements.lock").is_file()


def test_nodes_get_the_uv_of_the_makefile(cluster: dict[str, Any]) -> None:
    pinned = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"uv=={pinned[1]}" in "\n".join(cluster["setup_commands"])
