"""The jobs by `ray job submit` on a cluster of one node."""

import json
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .submitted import Cluster

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default"), pytest.mark.timeout(900)]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A new one for each test: what jobs count is of all that ran on it."""
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


def test_doctor_sees_the_cluster(cluster: Cluster) -> None:
    status, code, log = submit(cluster, "jobs/doctor.py")
    assert (status, code) == ("SUCCEEDED", 0), log
    assert "and so is the cluster at" in log


def test_prometheus_is_told_what_the_summary_says(cluster: Cluster, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "clips" / "noise").mkdir(parents=True)
    for i in range(300):
        path = tmp_path / "clips" / "noise" / f"{i}.wav"
        soundfile.write(path, rng.normal(scale=0.1, size=8_000), 8_000)
        if i % 50 == 0:
            path.write_bytes(b"no sound" if i else b"")
    at = {name: str(tmp_path / name) for name in ("clips", "m.parquet", "shards")}
    submit(cluster, "jobs/manifest.py", "--input", at["clips"], "--output", at["m.parquet"])
    words = ("jobs/extract.py", "--manifest", at["m.parquet"], "--output", at["shards"], "--unit-segments", "8")
    name = cluster.start(*words, "--augment", "gain", "--max-reject-fraction", "1")
    seen: list[float] = []
    while cluster.is_running(name):
        seen.append(scraped(cluster)["clips"])
        time.sleep(0.2)  # between two scrapes
    _, code, log = cluster.end_of(name)
    assert code == 0, log
    assert seen == sorted(seen), "a counter went back"
    summary = json.loads(Path(at["shards"], "summary.json").read_text())
    run, total = summary["this_run"], summary["total"]
    assert total["clips"] == {"planned": 300, "ok": 294, "partial": 0, "rejected": 6}
    expected = {
        "clips": 300, "clips_rejected": 6, "audio_s": run["audio_s"], "bytes": run["bytes"],
        **{f"rejects {reason}": count for reason, count in run["rejects_by_reason"].items()},
    }  # fmt: skip
    deadline = time.monotonic() + 30
    while not expected.items() <= (found := scraped(cluster)).items():
        assert time.monotonic() < deadline, f"{found} is told, not {expected}"
        time.sleep(0.2)  # between two scrapes
    assert found["stage_seconds augment gain"] > 0


def scraped(cluster: Cluster) -> defaultdict[str, float]:
    """The counters of extraction, those of one reason or stage by its name."""
    with urllib.request.urlopen(f"{cluster.metrics}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = defaultdict[str, float](float)
    for name, labels, value in re.findall(r"^ray_audioclf_(\w+?)(?:_total)?\{(.*)\} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if of["job"] == "extract":
            found[" ".join(filter(None, [name, of.get("reason"), of.get("stage")]))] += float(value)
    return found
