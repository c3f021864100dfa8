"""What tests of every kind use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile
from moto.server import ThreadedMotoServer
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from audioclf import s3
from tests.buckets import new_bucket, use_store

# A test's time depends on what else the machine does; a test that hangs ends by pytest's own timeout.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


class ByFile(LoadScopeScheduling):
    """A process takes whole files; of the integration and of the end-to-end tests all, for they share Ray clusters."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        folder = Path(file).parent.name
        return folder if folder in ("integration", "e2e") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Where two processes run the tests."""
    return ByFile(config, log)


@pytest.fixture
def wav(tmp_path: Path) -> Callable[..., Path]:
    """Writes [n] or [n, channels] samples to a file below tmp_path."""

    def write(samples: np.ndarray, rate: int = 8_000, name: str = "clip.wav", subtype: str = "PCM_16") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real audio that is not part of the project."""
    folder = Path(os.environ.get("AUDIOCLF_SHARED", Path(__file__).parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip("needs real audio: set AUDIOCLF_SHARED to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket on a server that speaks S3 over HTTP."""
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    use_store({"AWS_ENDPOINT_URL": moto_endpoint, **credentials}, monkeypatch)
    yield new_bucket()
    s3.client.cache_clear()
