"""One Ray cluster of two CPUs for all integration tests, and an S3 server that its workers reach."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from moto.server import ThreadedMotoServer

from audioclf.config import CrossvalConfig, ExtractConfig, ManifestConfig, TrainConfig
from audioclf.pipelines import crossval, extract, manifest, train
from tests.buckets import new_bucket

RATE = 8_000
HOSTILE = '"><img src=x onerror=document.title=1>&amp;'
"""In the names of hostile_clips: what would be HTML."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are errors in the unit tests; here they are Ray's own as well."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server; its address is in the environment before Ray's workers start."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    yield values["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def ray_cluster(s3_server: str) -> Iterator[None]:
    from audioclf.pipelines import cluster

    cluster.connect(num_cpus=2, num_gpus=1)  # which is not there: Ray counts it, and nothing computes on it
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """A new, empty bucket."""
    return new_bucket()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: 24 clips of low and high tones of half a second to one second, and one file that is no sound."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    for label, hz in (("high", 3000), ("low", 300)):
        (folder / label).mkdir()
        for i in range(12):
            time = np.arange(RATE // 2 + i * RATE // 24) / RATE
            sound = 0.5 * np.sin(2 * np.pi * hz * (1 + i / 50) * time) + rng.normal(scale=0.01, size=len(time))
            soundfile.write(folder / label / f"{i}.wav", sound, RATE)
    (folder / "low" / "broken.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="session")
def manifest_file(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("manifest") / "manifest.parquet")
    assert manifest.run(ManifestConfig(input=str(clips), output=path, folds=2)) == "ok"
    return path


@pytest.fixture(scope="session")
def extracted(manifest_file: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished extraction of the clips."""
    path = str(tmp_path_factory.mktemp("run") / "shards")
    assert extract.run(ExtractConfig(manifest=manifest_file, output=path)) == "ok"
    return path


@pytest.fixture(scope="session")
def trained(extracted: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network trained on fold 2."""
    output = str(tmp_path_factory.mktemp("train") / "run")
    config = TrainConfig(shards=(extracted,), output=output, test_fold=1, epochs=3, batch_size=4, num_workers=0)
    assert train.run(config) == "ok"
    return output


@pytest.fixture(scope="session")
def hostile_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders: 12 clips of a second, with names that would be HTML and begin with a time; one is no sound."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    for label, hz in (("<b>low<∕b>", 300), ("high", 3000)):  # as near to a closing tag as a folder's name gets
        (folder / label).mkdir()
        for i in range(6):
            time = np.arange(2 * RATE) / (2 * RATE)
            sound = 0.3 * np.sin(2 * np.pi * hz * (1 + i / 40) * time) + rng.normal(scale=0.02, size=len(time))
            soundfile.write(folder / label / f"20240131_1{i}0000 {HOSTILE}{i}.wav", sound, 2 * RATE)
    (folder / "high" / f"{HOSTILE}.wav").write_bytes(b"RIFF")
    return folder


@pytest.fixture(scope="session")
def hostile_shards(hostile_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Each of them and two louder or softer copies, in two folds."""
    folder = tmp_path_factory.mktemp("hostile_shards")
    listing = str(folder / "m.parquet")
    assert manifest.run(ManifestConfig(input=str(hostile_clips), output=listing, folds=2)) == "ok"
    config = ExtractConfig(
        manifest=listing, output=str(folder / "shards"), augment=("gain",), copies=2, max_reject_fraction=1.0
    )
    assert extract.run(config) == "ok"
    return config.output


@pytest.fixture(scope="session")
def crossvalidated(hostile_shards: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("crossval") / "run")
    config = CrossvalConfig(shards=(hostile_shards,), output=output, epochs=2, batch_size=4)
    assert crossval.run(config) == "ok"
    return output
