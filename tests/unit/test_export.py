"""Exported networks: ONNX Runtime and TorchScript against PyTorch, and what the files tell of themselves."""

import io
import json
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from torch import nn

from audioclf import export, inference, models, storage
from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.checkpoint import Checkpoint
from audioclf.config import ExportConfig
from audioclf.errors import ConfigError, ExportError
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.models.crnn import CRNN
from audioclf.models.sbcnn import SBCNN
from audioclf.pipelines import export as pipeline
from audioclf.torch_classifier import TorchClassifier

ROOT = Path(__file__).parents[2]
BOTH = ("torchscript", "onnx")
NAMES = ("cat", "dog", "rain")
PANNS = ("cnn6", "cnn10", "cnn14", "mobilenetv1", "mobilenetv2")
OF_PATCHES = ("sbcnn",)
OF_ANY_LENGTH = ("crnn", "crnn8-texture", "cnn6", "cnn10", "mobilenetv1", "mobilenetv2", "mn01", "timm:test_resnet")

pytestmark = [pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"), pytest.mark.usefixtures("one_thread")]


def checkpoint_of(name: str, multi_label: bool = False, network: Network | None = None) -> Checkpoint:
    """Of random weights, whose batch statistics are those of noise: a fresh network's features fade to nothing."""
    front_end = "panns32k" if name in PANNS else "efficientat32k" if name.startswith("mn") else "logmel44k"
    spec = get_front_end(front_end)
    torch.manual_seed(0)
    network = network or models.build(name, spec.n_features, len(NAMES))
    network.mean.fill_(-40.0)
    network.std.fill_(20.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(segments(network, 8, network.patch_frames or 160))
    if network.texture is not None:  # which a fresh network hears nothing by
        network.texture.weight.normal_(std=0.1)
    vocabulary = Vocabulary(NAMES, multi_label, ("/m/1", "/m/2", "/m/3"))
    return Checkpoint(network.eval(), name, spec, vocabulary, spec.duration_s(70), {}, {})


def segments(network: Network, n: int, n_frames: int) -> torch.Tensor:
    noise = torch.randn(n, network.mean.shape[0], n_frames, generator=torch.Generator().manual_seed(1))
    return network.mean + network.std * noise


def by_onnx(content: bytes, log_mel: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"log_mel": log_mel.numpy()})[0])


def by_torchscript(content: bytes, log_mel: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.jit.load(io.BytesIO(content))(log_mel).numpy()


def require_same(loaded: Checkpoint, files: dict[str, bytes], shapes: list[tuple[int, int]]) -> None:
    """Raise AssertionError unless both files give PyTorch's logits, to a share of what tells rows and classes apart."""
    for n, n_frames in shapes:
        batch = segments(loaded.network, n, n_frames)
        with torch.inference_mode():
            expected = loaded.network(batch).numpy()
        bound = 1e-4 * np.abs(expected - expected.mean()).max()
        assert bound > 0
        for name, predict in (("model.onnx", by_onnx), ("model.torchscript", by_torchscript)):
            np.testing.assert_allclose(predict(files[name], batch), expected, rtol=0, atol=bound, err_msg=name)


def described(files: dict[str, bytes]) -> dict[str, Any]:
    return json.loads(files["export.json"])


def onnx_shape(content: bytes) -> list[str | int]:
    """Of the input, names of the axes that may be of any length."""
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]


# --- the same logits


@pytest.mark.parametrize("name", OF_PATCHES)
def test_networks_of_patches_are_the_same(name: str) -> None:
    loaded = checkpoint_of(name)
    files = export.export(loaded, BOTH, export.frames_of(loaded))
    require_same(loaded, files, [(1, 128), (2, 128), (5, 128)])
    assert onnx_shape(files["model.onnx"]) == ["batch", 128, 128] == described(files)["input"]["shape"]


# The widest one takes 80 M parameters, of what cnn10 is built of.
@pytest.mark.parametrize("name", [*OF_ANY_LENGTH, pytest.param("cnn14", marks=pytest.mark.heavy)])
def test_networks_of_any_length_are_the_same(name: str) -> None:
    loaded = checkpoint_of(name)
    files = export.export(loaded, BOTH, export.frames_of(loaded))
    require_same(loaded, files, [(1, 70), (2, 9), (3, 40), (5, 101), (1, 333)])
    n_mels = loaded.front_end.n_features
    assert onnx_shape(files["model.onnx"]) == ["batch", n_mels, "frames"] == described(files)["input"]["shape"]


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_network_is_tested(name: str) -> None:
    assert name in (*OF_PATCHES, *OF_ANY_LENGTH, "cnn14")


def test_a_transformer_is_written_for_segments_of_one_length(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """By PyTorch's newer exporter."""
    loaded = checkpoint_of("timm:test_vit")
    with caplog.at_level("INFO", "audioclf"):
        files = export.export(loaded, BOTH, None)
    assert "written for segments of 70 frames only" in caplog.text
    assert capfd.readouterr().out == ""
    require_same(loaded, files, [(1, 70), (2, 70), (5, 70)])
    assert onnx_shape(files["model.onnx"]) == ["batch", 128, 70] == described(files)["input"]["shape"]


def test_the_number_of_frames_may_be_fixed() -> None:
    loaded = checkpoint_of("crnn")
    files = export.export(loaded, BOTH, export.frames_of(loaded, 50))
    require_same(loaded, files, [(1, 50), (4, 50)])
    assert onnx_shape(files["model.onnx"]) == ["batch", 128, 50] == described(files)["input"]["shape"]
    with pytest.raises(Exception, match="invalid dimensions"):
        by_onnx(files["model.onnx"], segments(loaded.network, 1, 51))


def test_networks_of_patches_take_patches() -> None:
    loaded = checkpoint_of("sbcnn")
    assert export.frames_of(loaded) == export.frames_of(loaded, 128) == 128
    with pytest.raises(ConfigError, match="--frames 100: sbcnn takes patches of 128 frames"):
        export.frames_of(loaded, 100)


class Forgetful(SBCNN):
    """Its trace, of two segments, is another network for other numbers."""

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        logits = super().classify(embedding)
        return logits if len(logits) == 2 else logits + 1


class Centred(CRNN):
    """Its trace keeps the length of the segment that it was made with."""

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        return super().embed(log_mel) / int(log_mel.shape[2])


class Rigid(CRNN):
    """Its trace fails for another length than that it was made with."""

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        n_frames = int(log_mel.shape[2])
        return super().embed(log_mel.reshape(-1, 128 * n_frames).reshape(-1, 128, n_frames))


@pytest.mark.parametrize("format_", BOTH)
def test_a_network_that_is_not_the_same_is_not_written(format_: str) -> None:
    loaded = checkpoint_of("sbcnn", network=Forgetful(128, 3))
    with pytest.raises(ExportError, match=rf"model\.{format_}: gives other logits .* for 1 segments"):
        export.export(loaded, [format_], 128)


@pytest.mark.parametrize("format_", BOTH)
@pytest.mark.parametrize("kind", [Centred, Rigid])
def test_a_network_that_holds_for_one_length_is_written_for_that(kind: type[CRNN], format_: str) -> None:
    loaded = checkpoint_of("crnn", network=kind(128, 3))
    files = export.export(loaded, [format_], None)
    assert described(files)["input"]["shape"] == ["batch", 128, 70]
    batch = segments(loaded.network, 3, 70)
    predict = by_onnx if format_ == "onnx" else by_torchscript
    with torch.inference_mode():
        expected = loaded.network(batch)
    # Logits of about 1 in float32, summed in another order on another processor.
    np.testing.assert_allclose(predict(files[f"model.{format_}"], batch), expected, rtol=0, atol=1e-5)


# --- what the files tell


@pytest.fixture(scope="module")
def of_many_labels() -> Checkpoint:
    return checkpoint_of("mn01", multi_label=True)


def test_all_files_tell_the_same(of_many_labels: Checkpoint) -> None:
    files = export.export(of_many_labels, BOTH, None)
    (prop,) = onnx.load_from_string(files["model.onnx"]).metadata_props
    extra_files: dict[str, Any] = {"export.json": ""}
    torch.jit.load(io.BytesIO(files["model.torchscript"]), _extra_files=extra_files)
    assert (prop.key, prop.value) == ("export.json", files["export.json"].decode())
    assert extra_files["export.json"] == files["export.json"]


def test_the_description_is_whole(of_many_labels: Checkpoint) -> None:
    about = json.loads(json.dumps(export.describe(of_many_labels, None)))
    assert FrontEnd.from_dict(about["front_end"]) == of_many_labels.front_end
    assert about["vocabulary"] == json.loads(json.dumps(asdict(of_many_labels.vocabulary)))
    assert about["weights_digest"] == of_many_labels.weights_digest()
    assert (about["model"], about["segment_s"]) == ("mn01", of_many_labels.segment_s)
    assert (about["patch_frames"], about["patch_hop_frames"]) == (None, None)
    assert about["input"] == {
        "name": "log_mel",
        "dtype": "float32",
        "shape": ["batch", 128, "frames"],
        "unit": "(natural logarithm + 4.5) / 5",
    }
    assert about["output"] == {
        "name": "logits",
        "dtype": "float32",
        "shape": ["batch", 3],
        "to_probabilities": "sigmoid",
    }
    assert about["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_the_description_of_patches_tells_how_they_follow_one_another() -> None:
    about = export.describe(checkpoint_of("sbcnn"), 128)
    assert (about["patch_frames"], about["patch_hop_frames"]) == (128, inference.PATCH_HOP_FRAMES)
    assert about["input"]["unit"] == "dB"
    assert about["output"]["to_probabilities"] == "softmax"


# --- the example of the docstring


def examples() -> tuple[str, str]:
    """That of ONNX Runtime and that of PyTorch."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", (export.__doc__ or "") + "\n", re.MULTILINE)
    first, second = (textwrap.dedent(block) for block in blocks if block.strip())
    return first, second


@pytest.mark.parametrize("seconds", [2.5, 4.0])
@pytest.mark.parametrize(("name", "multi_label"), [("sbcnn", False), ("sbcnn", True), ("crnn", False)])
def test_the_example_gives_what_evaluation_gives(
    name: str, multi_label: bool, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint_of(name, multi_label)
    for file, content in export.export(loaded, BOTH, export.frames_of(loaded)).items():
        (tmp_path / file).write_bytes(content)
    samples = np.random.default_rng(0).normal(scale=0.1, size=round(seconds * 44_100)).astype(np.float32)
    soundfile.write(tmp_path / "clip.wav", samples, 44_100, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    with_onnx, with_torch = examples()
    exec(with_onnx, found)
    picture = log_mel(samples, loaded.front_end)
    valid = np.array([picture.shape[1]])
    classifier = TorchClassifier(loaded.network)
    expected = inference.predict(classifier, picture[None], valid, multi_label, batch_size=4).probabilities[0]
    assert list(found["of_clip"]) == list(NAMES)
    np.testing.assert_allclose(list(found["of_clip"].values()), expected, atol=1e-5)
    of_torch: dict[str, Any] = {**found, "torch": torch}
    exec(with_torch, of_torch)
    np.testing.assert_allclose(of_torch["logits"].detach(), found["logits"], atol=1e-4)
    assert of_torch["about"] == found["about"]


# --- the job


def test_the_job_writes_a_run_directory(tmp_path: Path, s3_bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    loaded = checkpoint_of("sbcnn")
    loaded.save(f"s3://{s3_bucket}/run/checkpoint")
    for output in (str(tmp_path / "exported"), f"s3://{s3_bucket}/exported"):
        config = ExportConfig(checkpoint=f"s3://{s3_bucket}/run", output=output)
        with caplog.at_level("INFO", "audioclf"):
            assert pipeline.run(ExportConfig(checkpoint=config.checkpoint, output=output, dry_run=True)) == "ok"
        assert "would write" in caplog.text
        assert storage.names_in(storage.to_uri(output)) == {}
        assert pipeline.run(config) == "ok"
        names = storage.names_in(storage.to_uri(output))
        assert names.keys() == {
            "config.json", "export.json", "model.onnx", "model.torchscript", "summary.json", "_SUCCESS",
        }  # fmt: skip
        files = {name: storage.read_bytes(info.uri) for name, info in names.items()}
        assert json.loads(files["summary.json"])["status"] == "ok"
        require_same(loaded, files, [(2, 128)])
        assert pipeline.run(config) == "ok"  # once more
        with pytest.raises(ConfigError, match="was begun with another configuration: formats was"):
            pipeline.run(ExportConfig(checkpoint=config.checkpoint, output=output, format="onnx"))


def test_one_format_alone(tmp_path: Path) -> None:
    checkpoint_of("sbcnn").save(storage.to_uri(str(tmp_path)))
    formats: tuple[tuple[Literal["onnx", "torchscript"], str], ...] = (
        ("onnx", "model.onnx"),
        ("torchscript", "model.torchscript"),
    )
    for format_, file in formats:
        output = tmp_path / format_
        assert pipeline.run(ExportConfig(checkpoint=str(tmp_path), output=str(output), format=format_)) == "ok"
        assert {path.name for path in output.iterdir() if path.name.startswith("model")} == {file}


def test_bad_usage_is_told_before_anything_is_written(tmp_path: Path) -> None:
    checkpoint_of("sbcnn").save(storage.to_uri(str(tmp_path / "c")))
    output = tmp_path / "exported"
    with pytest.raises(ConfigError, match="--frames must be 1 or more"):
        ExportConfig(checkpoint=str(tmp_path / "c"), output=str(output), frames=0)
    with pytest.raises(ConfigError, match="takes patches of 128 frames"):
        pipeline.run(ExportConfig(checkpoint=str(tmp_path / "c"), output=str(output), frames=64))
    with pytest.raises(ConfigError, match="no checkpoint here"):
        pipeline.run(ExportConfig(checkpoint=str(tmp_path), output=str(output)))
    assert not output.exists()


def test_the_job_starts_without_ray(tmp_path: Path) -> None:
    checkpoint_of("sbcnn").save(storage.to_uri(str(tmp_path / "c")))
    code = f"""
import runpy, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["export.py", "--checkpoint", {str(tmp_path / "c")!r}, "--output", {str(tmp_path / "exported")!r}]
try:
    runpy.run_path({str(ROOT / "jobs" / "export.py")!r}, run_name="__main__")
except SystemExit as stopped:
    assert stopped.code == 0, stopped.code
assert "ray" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrote sbcnn as torchscript and onnx" in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "exported" / "_SUCCESS").exists()


def test_the_published_network_gives_the_published_logits(shared: Path, tmp_path: Path) -> None:
    """ONNX Runtime on our file against what the published code computes."""
    weights, reference = (shared / "weights" / name for name in ("mn04_as_mAP_432.pt", "mn04_reference.npz"))
    if not (weights.is_file() and reference.is_file()):
        pytest.skip("needs weights/mn04_as_mAP_432.pt and mn04_reference.npz below AUDIOCLF_SHARED")
    assert pipeline.run(ExportConfig(checkpoint=f"mn04:{weights}", output=str(tmp_path), format="onnx")) == "ok"
    with np.load(reference) as published:
        found = by_onnx((tmp_path / "model.onnx").read_bytes(), torch.from_numpy(published["log_mel"]))
        np.testing.assert_allclose(found, published["logits"][:4], atol=2e-4)
