"""Published weights: their files, fetching them, and the names users call them by."""

import contextlib
import csv
import dataclasses
import hashlib
import http.server
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch

from audioclf import checkpoint, models, storage
from audioclf.audio.frontend import get_front_end
from audioclf.errors import ConfigError
from audioclf.models import pretrained
from audioclf.models.pretrained import PUBLISHED

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUDIOCLF_CACHE", str(folder))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


def state_of(network: str, n_mels: int) -> State:
    """Weights as published: without our mean and deviation."""
    torch.manual_seed(0)
    state = models.build(network, n_mels, 527).state_dict()
    return {name: value for name, value in state.items() if name not in ("mean", "std")}


@pytest.fixture(scope="session")
def mn01(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file such as EfficientAT's."""
    path = tmp_path_factory.mktemp("weights") / "mn01.pt"
    torch.save(OrderedDict(state_of("mn01", 128)), path)
    return path


def panns_file(path: Path, changes: State | None = None) -> Path:
    """A file such as PANNs': before torch's ZIP format and numpy 2, with the sampler's state beside the weights."""
    state = OrderedDict(state_of("cnn6", 64))
    for part in ("real", "imag"):
        state[f"spectrogram_extractor.stft.conv_{part}.weight"] = torch.zeros(513, 1, 1024)
    state["logmel_extractor.melW"] = torch.from_numpy(np.ascontiguousarray(get_front_end("panns32k").filters().T))
    state.update(changes or {})
    indexes = {"indexes": np.arange(5), "pointer": np.int64(3), "queue": [1, 2]}
    whole = {"iteration": 600_000, "model": state, "sampler": indexes}
    torch.save(whole, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    assert b"cnumpy._core.multiarray\n" in data
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    return path


# --- what is published


def test_each_published_network_can_be_built_for_its_front_end() -> None:
    for name, published in PUBLISHED.items():
        assert published.name == name
        models.check_name(published.network)
        assert get_front_end(published.front_end).n_features in (64, 128)
        assert published.url.startswith("https://")
        assert published.file_name.endswith((".pt", ".pth"))
        assert "%" not in published.file_name
        if published.digest:
            algorithm, _, value = published.digest.partition(":")
            assert len(value) == 2 * hashlib.new(algorithm).digest_size
            assert bytes.fromhex(value)
    assert PUBLISHED["cnn10"].file_name == "Cnn10_mAP=0.380.pth"


def test_the_shared_file_has_the_digest(shared: Path) -> None:
    path = shared / "weights" / "mn04_as_mAP_432.pt"
    if not path.is_file():
        pytest.skip("needs weights/mn04_as_mAP_432.pt below AUDIOCLF_SHARED")
    assert PUBLISHED["mn04"].digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert PUBLISHED["mn04"].file_name == path.name


def test_the_classes_are_audiosets() -> None:
    vocabulary = pretrained.vocabulary()
    assert vocabulary.multi_label
    assert len(vocabulary.names) == len(set(vocabulary.names)) == len(set(vocabulary.mids or ())) == 527
    of = dict(zip(vocabulary.mids or (), vocabulary.names, strict=True))
    assert (vocabulary.names[0], vocabulary.names[-1]) == ("Speech", "Field recording")
    assert of["/m/09x0r"] == "Speech"
    assert of["/m/01g50p"] == "Railroad car, train wagon"


def test_the_classes_are_those_of_the_list(shared: Path) -> None:
    path = shared / "data" / "audioset" / "class_labels_indices.csv"
    if not path.is_file():
        pytest.skip("needs data/audioset/class_labels_indices.csv below AUDIOCLF_SHARED")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(527))
    assert pretrained.vocabulary().names == tuple(row["display_name"] for row in rows)
    assert pretrained.vocabulary().mids == tuple(row["mid"] for row in rows)


# --- files


def test_a_file_gives_a_checkpoint(mn01: Path) -> None:
    loaded = checkpoint.load_for(f"mn01:{mn01}")
    assert (loaded.name, loaded.segment_s) == ("mn01", 10.0)
    assert loaded.front_end == get_front_end("efficientat32k")
    assert loaded.vocabulary == pretrained.vocabulary()
    assert not loaded.network.training
    theirs = torch.load(mn01, weights_only=True)
    ours = loaded.network.state_dict()
    assert set(ours) == {*theirs, "mean", "std"}
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert (ours["mean"] == 0).all()
    assert (ours["std"] == 1).all()


def test_a_published_network_can_be_saved_as_a_checkpoint(mn01: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load_for(f"mn01:{mn01}")
    uri = storage.to_uri(str(tmp_path / "saved"))
    loaded.save(uri)
    again = checkpoint.load(uri)
    assert again.weights_digest() == loaded.weights_digest()
    assert again.vocabulary == loaded.vocabulary


def test_panns_files_are_read_without_their_front_end(tmp_path: Path) -> None:
    loaded = checkpoint.load_for(f"cnn6:{panns_file(tmp_path / 'Cnn6.pth')}")
    assert (loaded.name, loaded.front_end) == ("cnn6", get_front_end("panns32k"))
    expected = state_of("cnn6", 64)
    ours = loaded.network.state_dict()
    assert set(ours) == {*expected, "mean", "std"}
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    with torch.inference_mode():
        assert loaded.network(torch.randn(2, 64, 50)).shape == (2, 527)


def test_panns_of_other_mel_filters_are_refused(tmp_path: Path) -> None:
    filters = dataclasses.replace(get_front_end("panns32k"), f_max_hz=16_000.0).filters()
    other = {"logmel_extractor.melW": torch.from_numpy(np.ascontiguousarray(filters.T))}
    with pytest.raises(ConfigError, match=r"Cnn6\.pth: logmel_extractor\.melW: not the mel filters .* panns32k"):
        checkpoint.load_for(f"cnn6:{panns_file(tmp_path / 'Cnn6.pth', other)}")


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (os.environ["PAYLOAD"],)


def test_a_payload_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("PAYLOAD", str(mark))
    path = tmp_path / "evil.pt"
    for zipped in (True, False):
        torch.save({**state_of("mn01", 128), "x": Payload()}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ConfigError, match=r"evil\.pt: refused: damaged, or it holds more than weights"):
            checkpoint.load_for(f"mn01:{path}")
    assert not mark.exists()


def test_objects_in_numpy_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "objects.pt"
    torch.save({"model": {}, "sampler": np.array([{}, []], dtype=object)}, path)
    with pytest.raises(ConfigError, match=r"objects\.pt: refused"):
        checkpoint.load_for(f"cnn6:{path}")


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 5_000, 100_000, -1_000, -1])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_off_is_refused(tmp_path: Path, mn01: Path, kept: int, zipped: bool) -> None:
    path = tmp_path / "part.pt"
    torch.save(torch.load(mn01, weights_only=True), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"part\.pt: (damaged|refused)"):
        checkpoint.load_for(f"mn01:{path}")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_what_is_overwritten_is_refused_or_of_the_same_shapes(tmp_path: Path, mn01: Path) -> None:
    """Whatever a damaged file makes torch.load raise, it is the user's file that is named."""
    path = tmp_path / "rotten.pt"
    torch.save(torch.load(mn01, weights_only=True), path, _use_new_zipfile_serialization=False)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        data = bytearray(whole)
        at = int(rng.integers(0, 40_000))  # where the pickle is
        data[at : at + 4] = rng.bytes(4)
        path.write_bytes(data)
        try:
            pretrained.load(PUBLISHED["mn01"], storage.to_uri(str(path)))
        except ConfigError as error:
            assert "rotten.pt" in str(error)  # noqa: PT017 (an intact result is no failure)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("text", ["no weights at all", "<html>Not Found</html>", "version https://git-lfs.github.com"])
def test_a_text_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.pt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"page\.pt: (damaged|refused)"):
        checkpoint.load_for(f"mn01:{path}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("classifier.5.bias"), "it lacks classifier.5.bias$"),
        (lambda state: state.update(extra=torch.zeros(1)), "it has extra$"),
        (lambda state: state.update({f"x{i}": torch.zeros(1) for i in range(5)}), "it has x0, x1, x2 and more$"),
        (
            lambda state: state.update({"classifier.5.bias": torch.zeros(50)}),
            r"classifier\.5\.bias is \[50\], should be \[527\]",
        ),
    ],
)
def test_other_weights_are_refused_with_what_differs(
    tmp_path: Path, mn01: Path, change: Callable[[State], None], message: str
) -> None:
    state = torch.load(mn01, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=rf"other\.pt: not the weights of mn01: {message}"):
        checkpoint.load_for(f"mn01:{tmp_path / 'other.pt'}")


def test_a_file_of_another_network_is_refused(mn01: Path) -> None:
    with pytest.raises(ConfigError, match=r"mn01\.pt: not the weights of mn02: it lacks features"):
        checkpoint.load_for(f"mn02:{mn01}")
    with pytest.raises(ConfigError, match=r"mn01\.pt: not the weights of cnn10: it lacks bn0"):
        checkpoint.load_for(f"cnn10:{mn01}")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"a": 1}, 3, {"model": [1]}, {"model": {"bn0.weight": "x"}}])
def test_a_file_without_weights_by_name_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ConfigError, match=r"odd\.pt: .* where weights by name should be"):
        checkpoint.load_for(f"mn01:{tmp_path / 'odd.pt'}")


# --- names


def test_where_a_checkpoint_is_holds_in_every_process(
    tmp_path: Path, mn01: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mn01.parent)
    found = checkpoint.find("mn01:mn01.pt")
    monkeypatch.chdir(tmp_path)
    assert checkpoint.load(found).name == "mn01"
    assert checkpoint.find(found) == found


def test_weights_may_lie_in_a_bucket(s3_bucket: str, mn01: Path) -> None:
    boto3.client("s3").put_object(Bucket=s3_bucket, Key="weights/mn01.pt", Body=mn01.read_bytes())
    found = checkpoint.find(f"mn01:s3://{s3_bucket}/weights/mn01.pt")
    assert found == f"mn01:s3://{s3_bucket}/weights/mn01.pt"
    assert checkpoint.load(found).name == "mn01"
    with pytest.raises(ConfigError, match=r"absent\.pt: no such file"):
        checkpoint.find(f"mn01:s3://{s3_bucket}/absent.pt")


def test_what_must_be_reached_is_the_file_alone() -> None:
    assert checkpoint.uris("mn04") == []
    assert checkpoint.uris("mn04:s3://bucket/mn04.pt") == ["s3://bucket/mn04.pt"]
    assert checkpoint.uris("mn04:/there/mn04.pt") == ["file:///there/mn04.pt"]
    assert checkpoint.uris("s3://bucket/run") == ["s3://bucket/run"]


def test_a_file_alone_needs_the_networks_name(mn01: Path) -> None:
    assert checkpoint.load_for(str(mn01), "mn01").name == "mn01"
    assert checkpoint.find(f"mn01:{mn01}", "mn01") == checkpoint.find(str(mn01), "mn01")
    with pytest.raises(ConfigError, match=rf"weights of which network\? Give NAME:{mn01}, NAME one of .*mn04"):
        checkpoint.load_for(str(mn01))
    with pytest.raises(ConfigError, match="of which network"):
        checkpoint.load_for(str(mn01), "crnn")


def test_a_folder_called_like_a_network_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mn01: Path) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.load_for(f"mn01:{mn01}").save(storage.to_uri("mn04"))
    found = checkpoint.find("mn04")
    assert found == storage.to_uri(str(tmp_path / "mn04"))
    assert checkpoint.load(found).name == checkpoint.load("mn04").name == "mn01"
    (tmp_path / "mn01").mkdir()
    with pytest.raises(ConfigError, match="mn01: no checkpoint here"):
        checkpoint.find("mn01")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mn04:", "no file after the colon"),
        ("mn04:absent.pt", "mn04:/.*/absent.pt: no such file"),
        ("mn04:.", "no such file"),
        ("crnn", "no checkpoint here.*published network.*cnn10"),
        ("crnn:weights.pt", "crnn:weights.pt: weights of which network"),
        ("timm:resnet18", "no checkpoint here"),
        (r"C:\weights\mn04", "no checkpoint here"),
        ("c:/weights/mn04", "no checkpoint here"),
        ("http://host/mn04.pt", "http:// is not supported"),
    ],
)
def test_what_is_no_published_network_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        checkpoint.load_for(text)


def test_a_bucket_is_not_a_networks_name(s3_bucket: str) -> None:
    with pytest.raises(ConfigError, match="no checkpoint here"):
        checkpoint.load_for(f"s3://{s3_bucket}/mn04")


# --- fetching


class Server(http.server.ThreadingHTTPServer):
    """Serves one body; counts what is asked for."""

    daemon_threads = True
    asked = 0
    body = b""
    promised: int | None = None
    """Content-Length; None: that of the body."""
    status = 200
    stalled: threading.Event | None = None
    """Answers only once this is set."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.stalled:
            self.server.stalled.wait(60)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.promised or len(self.server.body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            self.wfile.write(self.server.body)

    def log_message(self, *args: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


@pytest.fixture
def server(mn01: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Where mn01 is published, for once with a digest."""
    monkeypatch.setattr(pretrained, "TIMEOUT_S", 20.0)
    with Server(("127.0.0.1", 0), Handler) as server:
        server.body = mn01.read_bytes()
        digest = "sha256:" + hashlib.sha256(server.body).hexdigest()
        url = f"http://127.0.0.1:{server.server_address[1]}/some/mn01%3Das.pt"
        monkeypatch.setitem(PUBLISHED, "mn01", dataclasses.replace(PUBLISHED["mn01"], url=url, digest=digest))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_weights_are_fetched_once(server: Server, cache: Path) -> None:
    assert checkpoint.find("mn01") == "mn01"
    assert files_in(cache) == ["mn01=as.pt"]
    assert checkpoint.load("mn01").weights_digest() == checkpoint.load_for("mn01").weights_digest()
    assert server.asked == 1


def test_a_default_folder_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUDIOCLF_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pretrained.cache_folder() == tmp_path / ".cache" / "audioclf"


def require_way_out(error: ConfigError, cache: Path) -> None:
    """The message says what to do by hand, and nothing half-done is left."""
    text = str(error)
    assert PUBLISHED["mn01"].url in text
    assert str(cache / "mn01=as.pt") in text
    assert "AUDIOCLF_CACHE" in text
    assert "mn01:FILE" in text
    assert files_in(cache) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body": b"something else"}, "what came is sha256:"),
        ({"body": b""}, "what came is sha256:"),
        ({"body": b"first part", "promised": 500_000}, "what came is sha256:"),
        ({"status": 404}, "404"),
        ({"status": 503}, "503"),
    ],
    ids=["other", "nothing", "cut off", "absent", "down"],
)
def test_what_can_not_be_fetched_is_told_with_a_way_out(
    server: Server, cache: Path, changes: dict[str, object], reason: str
) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(ConfigError, match=reason) as caught:
        checkpoint.load_for("mn01")
    require_way_out(caught.value, cache)


def test_a_server_that_does_not_answer_is_given_up(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.stalled = threading.Event()
    monkeypatch.setattr(pretrained, "TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match="timed out") as caught:
        checkpoint.load_for("mn01")
    server.stalled.set()
    require_way_out(caught.value, cache)


def test_without_a_network_the_way_out_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/mn01%3Das.pt"
        published = dataclasses.replace(PUBLISHED["mn01"], url=url, digest="md5:" + "0" * 32)
        monkeypatch.setitem(PUBLISHED, "mn01", published)
        with pytest.raises(ConfigError, match="refused") as caught:
            checkpoint.load_for("mn01")
    require_way_out(caught.value, cache)


def test_a_file_put_into_the_cache_is_taken_if_it_is_the_published_one(server: Server, cache: Path, mn01: Path) -> None:
    cache.mkdir()
    (cache / "mn01=as.pt").write_bytes(mn01.read_bytes())
    assert checkpoint.load_for("mn01").name == "mn01"
    (cache / "mn01=as.pt").write_bytes(mn01.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"mn01=as\.pt: sha256:.* remove the file"):
        checkpoint.load_for("mn01")
    assert server.asked == 0


def test_a_cache_that_can_not_be_written_is_told(server: Server, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match="AUDIOCLF_CACHE"):
        checkpoint.load_for("mn01")


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.digest is None])
def test_what_has_no_known_digest_is_not_fetched(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: published at https://.* give {name}:FILE"):
        checkpoint.load_for(name)
