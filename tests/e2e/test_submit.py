"""The jobs by `ray job submit` on a cluster of one node."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .submitted import Cluster

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster("--num-cpus=2")
    yield found
    found.stop()


def submit(cluster: Cluster, *words: str) -> tuple[str, int | None, str]:
    return cluster.end_of(cluster.start(*words))


def test_every_job_and_its_exit_codes(cluster: Cluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3000), ("low", 300)):
        (tmp_path / "clips" / label).mkdir(parents=True)
        for i in range(8):
            sound = np.sin(2 * np.pi * hz * np.arange(8_000) / 8_000) + rng.normal(scale=0.01, size=8_000)
            soundfile.write(tmp_path / "clips" / label / f"{i}.wav", 0.5 * sound, 8_000)
    at = {name: str(tmp_path / name) for name in ("clips", "m.parquet", "shards", "train", "cv", "eval", "tags")}
    few = ("--epochs", "2", "--batch-size", "4")
    for words in (
        ("jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"], "--folds", "2"),
        ("jobs/extract.py", "--manifest", at["m.parquet"], "--output", at["shards"]),
        ("jobs/train.py", "--shards", at["shards"], "--output", at["train"], "--test-fold", "1", *few),
        ("jobs/evaluate.py", "--shards", at["shards"], "--checkpoint", at["train"], "--output", at["eval"]),
        ("jobs/crossval.py", "--shards", at["shards"], "--output", at["cv"], *few),
        ("jobs/tag.py", "--input", at["clips"], "--checkpoint", at["train"], "--output", at["tags"]),
    ):
        status, code, log = submit(cluster, *words)
        assert (status, code) == ("SUCCEEDED", 0), log
    status, code, log = submit(cluster, "jobs/extract.py", "--manifest", at["m.parquet"], "--no-such-flag", "1")
    assert (status, code) == ("FAILED", 2), log
    (tmp_path / "clips" / "low" / "broken.wav").write_bytes(b"no sound")
    submit(cluster, "jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"])
    status, code, log = submit(
        cluster, "jobs/extract.py", "--manifest", at["m.parquet"], "--output", at["shards"] + "2"
    )
    assert (status, code) == ("FAILED", 3), log
