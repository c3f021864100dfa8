"""The whole path by `ray job submit` from a folder that holds nothing but the checkout, on two nodes of which one dies
in the middle of each job and another takes its place: the results are those of undisturbed jobs."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from audioclf import parquet_files, schema, shards, storage

from .conftest import ROOT
from .submitted import Cluster, Node

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default"), pytest.mark.timeout(1800)]

RATE = 8_000
CLIPS = 600
SECOND = ("--num-cpus=1", '--resources={"spot": 1}')


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster("--num-cpus=1", '--resources={"head": 1}')
    yield found
    found.stop()


@pytest.fixture
def second(cluster: Cluster) -> Node:
    return cluster.join(*SECOND)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where things lie: clips of two tones, and what is made of them."""
    folder = tmp_path_factory.mktemp("two-nodes")
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        label, hz = (("high", 3000), ("low", 300))[i % 2]
        time_s = np.arange(RATE) / RATE
        sound = 0.4 * np.sin(2 * np.pi * hz * (1 + i / 1000) * time_s) + rng.normal(scale=0.05, size=RATE)
        (folder / "clips" / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "clips" / label / f"{i}.wav", sound, RATE)
    names = ("clips", "m.parquet", "shards", "shards-2", "train", "train-2", "tags", "tags-2")
    return {name: str(folder / name) for name in names}


def succeed(cluster: Cluster, *words: str) -> str:
    status, code, log = cluster.end_of(cluster.start(*words))
    assert (status, code) == ("SUCCEEDED", 0), log
    return log


def succeed_with_a_loss(cluster: Cluster, second: Node, under_way: Callable[[], bool], *words: str) -> None:
    """The job, of which one node dies when it is under way; another takes its place."""
    name = cluster.start(*words)
    while not under_way():
        assert cluster.is_running(name), f"it ended before the node's death: {cluster.log_of(name)}"
        time.sleep(0.05)  # between two looks
    assert cluster.is_running(name), "it ended before the node's death"
    cluster.lose(second)
    cluster.join(*SECOND)
    status, code, log = cluster.end_of(name)
    assert (status, code) == ("SUCCEEDED", 0), log


def files_in(folder: str, wanted: int) -> Callable[[], bool]:
    return lambda: Path(folder).is_dir() and sum(not p.name.startswith(".") for p in Path(folder).iterdir()) >= wanted


def rows(run: str) -> pa.Table:
    tables = [parquet_files.read(uri).replace_schema_metadata() for uri in shards.committed_files(storage.to_uri(run))]
    return pa.concat_tables(tables).sort_by("clip_id").combine_chunks()


def tags(output: str) -> list[tuple[str, float, str, float]]:
    (night,) = (Path(output) / "runs").iterdir()
    table = pa.concat_tables([schema.TAG.empty_table(), *(map(parquet_files.read, _data(night)))])
    found = table.select(["clip_id", "start_s", "tag", "probability"]).to_pylist()
    return sorted((row["clip_id"], row["start_s"], row["tag"], round(row["probability"], 4)) for row in found)


def _data(night: Path) -> list[str]:
    return shards.committed_files(storage.to_uri(str(night)))


def test_one_node_dies_in_extraction_in_training_and_in_tagging(
    cluster: Cluster, second: Node, at: dict[str, str]
) -> None:
    succeed(cluster, "jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"], "--folds", "2")
    extract = ("jobs/extract.py", "--manifest", at["m.parquet"], "--unit-segments", "8", "--num-actors", "2")
    succeed(cluster, *extract, "--output", at["shards"])
    under_way = files_in(f"{at['shards-2']}/data", 5)
    succeed_with_a_loss(cluster, second, under_way, *extract, "--output", at["shards-2"])
    assert rows(at["shards-2"]).equals(rows(at["shards"]))

    train = ("jobs/train.py", "--shards", at["shards"], "--num-workers", "2", "--epochs", "8")
    train = (*train, "--dropout", "0", "--test-fold", "1")
    succeed(cluster, *train, "--output", at["train"])
    under_way = files_in(f"{at['train-2']}/training_state", 3)
    succeed_with_a_loss(cluster, cluster.last, under_way, *train, "--output", at["train-2"])
    histories = [json.loads(Path(at[name], "metrics.json").read_text())["epochs"] for name in ("train", "train-2")]
    assert [one["epoch"] for one in histories[1]] == list(range(1, 9))
    np.testing.assert_allclose([one["loss"] for one in histories[1]], [one["loss"] for one in histories[0]], rtol=1e-4)

    tag = ("jobs/tag.py", "--input", at["clips"], "--checkpoint", at["train"], "--top-k", "1", "--unit-s", "24")
    tag = (*tag, "--num-actors", "2")
    succeed(cluster, *tag, "--output", at["tags"])

    def under_way() -> bool:
        return any(files_in(str(night), 4)() for night in Path(at["tags-2"]).glob("runs/*/data"))

    succeed_with_a_loss(cluster, cluster.last, under_way, *tag, "--output", at["tags-2"])
    assert tags(at["tags-2"]) == tags(at["tags"])


def test_a_stopped_job_says_that_it_can_go_on(cluster: Cluster, at: dict[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "shards")
    words = ("jobs/extract.py", "--manifest", at["m.parquet"], "--unit-segments", "8", "--output", output)
    name = cluster.start(*words)
    while not files_in(f"{output}/data", 3)():
        assert cluster.is_running(name), cluster.log_of(name)
        time.sleep(0.05)  # between two looks
    cluster.ask_to_stop(name)
    status, _, log = cluster.end_of(name)
    assert status == "STOPPED"
    assert "run the same command again to go on" in log
    log = succeed(cluster, *words)
    assert "0 of them done before" not in log
    assert len(rows(output)) == CLIPS


def test_relative_paths_and_errors_from_a_client_s_folder(cluster: Cluster, at: dict[str, str], tmp_path: Path) -> None:
    """The working directory travels; what is relative in flags is relative to its copy on the head."""
    client = tmp_path / "client"
    client.mkdir()
    for name in ("audioclf", "jobs", "pyproject.toml"):
        (client / name).symlink_to(ROOT / name)
    missing = cluster.start("jobs/extract.py", "--manifest", "m.parquet", "--output", "out", cwd=client)
    status, code, log = cluster.end_of(missing)
    assert (status, code) == ("FAILED", 2), log
    assert "m.parquet" in log
