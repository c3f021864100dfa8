"""What tests of every kind use."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile
from moto.server import ThreadedMotoServer

from audioclf import s3
from tests.buckets import new_bucket

# A test's time depends on what else the machine does; a test that hangs ends by pytest's own timeout.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


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
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3.client.cache_clear()
    yield new_bucket()
    s3.client.cache_clear()
