"""Trained networks as ONNX and TorchScript files, which tell themselves how they are to be used.

Beside the network lies `export.json`: the front end, the classes, and what goes in and comes out. The same text is in
the metadata of the ONNX file, and in the TorchScript file as an extra file, both called `export.json`. With ONNX
Runtime and audioclf's front end, which needs NumPy, SciPy and Numba alone:

    import json
    import numpy as np
    import onnxruntime
    import soundfile
    from audioclf.audio.frontend import FrontEnd
    from audioclf.audio.log_mel import log_mel

    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["export.json"])
    spec = FrontEnd.from_dict(about["front_end"])
    samples, sample_rate = soundfile.read("clip.wav", dtype="float32")
    assert samples.ndim == 1 and sample_rate == spec.sample_rate
    picture = log_mel(samples, spec)
    frames = about["input"]["shape"][2]
    if frames == "frames":  # any number of them
        segments = picture[None]
    else:  # patches of so many frames, every so many frames; a short clip goes on with its last frame
        picture = np.pad(picture, ((0, 0), (0, max(0, frames - picture.shape[1]))), mode="edge")
        patches = np.lib.stride_tricks.sliding_window_view(picture, frames, axis=1)
        segments = patches[:, :: about["patch_hop_frames"] or frames].swapaxes(0, 1).copy()
    (logits,) = session.run(["logits"], {"log_mel": segments})
    if about["vocabulary"]["multi_label"]:
        probabilities = 1 / (1 + np.exp(-logits))
    else:
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
    of_clip = dict(zip(about["vocabulary"]["names"], probabilities.mean(0)))

And with PyTorch:

    extra_files = {"export.json": ""}
    network = torch.jit.load("model.torchscript", _extra_files=extra_files)
    about = json.loads(extra_files["export.json"])
    logits = network(torch.from_numpy(segments))
"""

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors  # pyright: ignore[reportAttributeAccessIssue]
from torch import nn

from audioclf.audio.frontend import FrontEnd
from audioclf.checkpoint import Checkpoint
from audioclf.errors import ConfigError, ExportError
from audioclf.inference import PATCH_HOP_FRAMES
from audioclf.models import Network
from audioclf.onnx_classifier import DESCRIPTION, EMBEDDING, INPUT, LOGITS, OnnxClassifier

log = logging.getLogger("audioclf")

VERSION = "1"
FILES = {"onnx": "model.onnx", "torchscript": "model.torchscript"}
ANY_FRAMES = "frames"
"""The name of the time axis, where the network takes any number of frames."""

TOLERANCE = 1e-4
"""By which an exported network's logits may differ; where they are above 1, as a share of the largest."""

OPSET, NEWER_OPSET = 17, 18
"""Of ONNX: the oldest with all that our networks need, and the oldest that PyTorch's newer exporter writes."""

Predictor = Callable[[np.ndarray], np.ndarray]

_MISFITS = (
    RuntimeError,  # of TorchScript, and of both of PyTorch's exporters
    AssertionError,  # of timm's networks, for numbers of frames that they do not take
    onnxruntime_errors.Fail,
    onnxruntime_errors.InvalidArgument,
    onnxruntime_errors.InvalidGraph,
    onnxruntime_errors.NotImplemented,
    onnxruntime_errors.RuntimeException,
)
"""What is raised by networks that take no other shapes than those they were exported with, or can't be exported."""


def frames_of(loaded: Checkpoint, frames: int | None = None) -> int | None:
    """The number of frames that an exported network is to take; None: any.

    Args:
        loaded: the checkpoint.
        frames: what was asked for.

    Raises:
        ConfigError: it takes patches of another number.
    """
    patch = loaded.network.patch_frames
    if patch and frames not in (None, patch):
        raise ConfigError(f"--frames {frames}: {loaded.name} takes patches of {patch} frames; leave it out")
    return patch or frames


def export(loaded: Checkpoint, formats: Sequence[str], frames: int | None) -> dict[str, bytes]:
    """The files of an exported network, each tried out.

    A network that turns out to take no other number of frames than the one it was exported with is exported for
    segments as long as it was trained on.

    Args:
        loaded: the checkpoint.
        formats: of FILES.
        frames: of `frames_of`.

    Returns:
        Contents by name, export.json among them.

    Raises:
        ExportError: an exported network gives other logits than the checkpoint, or none.
    """
    spec = loaded.front_end
    usual = frames or spec.n_frames(round(loaded.segment_s * spec.sample_rate))
    try:
        return _export(loaded, formats, frames, usual)
    except ExportError as error:
        if frames is not None:
            raise
        log.info("export: %s", error)
        log.info("export: written for segments of %d frames only", usual)
    return _export(loaded, formats, usual, usual)


def _export(loaded: Checkpoint, formats: Sequence[str], frames: int | None, usual: int) -> dict[str, bytes]:
    text = json.dumps(describe(loaded, frames), indent=2, sort_keys=True) + "\n"
    network = loaded.network
    example = _noise(network, 2, usual)
    files = {}
    for name in formats:
        try:
            files[FILES[name]] = content = _WRITERS[name](network, example, frames is None, text)
            _check(network, _PREDICTORS[name](content), _shapes(network, frames, usual), FILES[name])
        except _MISFITS as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"{loaded.name} as {FILES[name]}: {lines[-1]}") from error
    return {**files, DESCRIPTION: text.encode()}


def describe(loaded: Checkpoint, frames: int | None) -> dict[str, Any]:
    """The content of export.json."""
    patch_frames = loaded.network.patch_frames
    return {
        "version": VERSION,
        "model": loaded.name,
        "weights_digest": loaded.weights_digest(),
        "front_end": loaded.front_end.to_dict(),
        "vocabulary": asdict(loaded.vocabulary),
        "segment_s": loaded.segment_s,
        "patch_frames": patch_frames,
        "patch_hop_frames": PATCH_HOP_FRAMES if patch_frames else None,
        "input": {
            "name": INPUT,
            "dtype": "float32",
            "shape": ["batch", loaded.front_end.n_features, frames or ANY_FRAMES],
            "unit": _unit(loaded.front_end),
        },
        "output": {
            "name": LOGITS,
            "dtype": "float32",
            "shape": ["batch", len(loaded.vocabulary)],
            "to_probabilities": "sigmoid" if loaded.vocabulary.multi_label else "softmax",
        },
        "embedding": {"name": EMBEDDING, "dtype": "float32", "of": "model.onnx"},
        "versions": {"torch": str(torch.__version__), "onnx": onnx.__version__},
    }


def _unit(spec: FrontEnd) -> str:
    unit = "dB" if spec.log == "db" else "natural logarithm"
    if spec.n_mfcc:
        unit = f"cepstral coefficients of {unit}"
    if (spec.mean, spec.std) == (0, 1):
        return unit
    return f"({unit} {'+' if spec.mean < 0 else '-'} {abs(spec.mean):g}) / {spec.std:g}"


def _to_torchscript(network: Network, example: torch.Tensor, any_frames: bool, text: str) -> bytes:
    with _quiet(), torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False))
        buffer = io.BytesIO()
        torch.jit.save(frozen, buffer, _extra_files={DESCRIPTION: text})
    return buffer.getvalue()


class _WithEmbedding(nn.Module):
    """Gives what the last layer gives, and what it takes."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.network.embed(log_mel)
        return self.network.classify(embedding), embedding


def _to_onnx(network: Network, example: torch.Tensor, any_frames: bool, text: str) -> bytes:
    """By PyTorch's exporter of traces. Its newer one can't write the crnn's recurrent layer, leaves out the padding of
    segments shorter than min_frames, and takes a hundred times as long; it is used, for a fixed number of frames, where
    a trace has an operator that the other can't write, as in timm's transformers.
    """
    both = _WithEmbedding(network).eval()
    try:
        model = _by_trace(both, example, any_frames)
    except torch.onnx.OnnxExporterError:
        if any_frames:
            raise
        model = _by_export(both, example)
    onnx.helper.set_model_props(model, {DESCRIPTION: text})
    return model.SerializeToString()


def _by_trace(network: nn.Module, example: torch.Tensor, any_frames: bool) -> onnx.ModelProto:
    axes = {0: "batch", 2: ANY_FRAMES} if any_frames else {0: "batch"}
    buffer = io.BytesIO()
    with _quiet(), _no_stdout():
        torch.onnx.export(
            network,
            (example,),
            buffer,  # pyright: ignore[reportArgumentType] (this exporter writes into anything)
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[LOGITS, EMBEDDING],
            dynamic_axes={INPUT: axes, LOGITS: {0: "batch"}, EMBEDDING: {0: "batch"}},
        )
    return onnx.load_from_string(buffer.getvalue())


def _by_export(network: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            network, (example,), dynamo=True, opset_version=NEWER_OPSET,
            input_names=[INPUT], output_names=[LOGITS, EMBEDDING],
            dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
        )  # fmt: skip
    assert program is not None  # it is None where a file is written
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of PyTorch that do not concern us."""
    with warnings.catch_warnings():
        # That traces are on their way out, told by all that has to do with them. The release of PyTorch is pinned.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning, r"torch\.onnx")
        # That a trace may hold for its example alone, a GRU for its batch, and the like: `_check` tries others.
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # pyright: ignore[reportPrivateImportUsage]
        # Of PyTorch's newer exporter about itself.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
        yield


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    """Without what PyTorch prints, past Python, where it can't write an operator: the whole graph."""
    sys.stdout.flush()
    stdout, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)
        os.close(nowhere)


def onnx_predictor(content: bytes) -> Predictor:
    """What computes logits [B, C] of segments [B, M, T] by an ONNX file, in ONNX Runtime on one CPU."""
    classifier = OnnxClassifier(content)
    return lambda log_mel: classifier(log_mel).logits


def torchscript_predictor(content: bytes) -> Predictor:
    """What computes logits [B, C] of segments [B, M, T] by a TorchScript file."""
    with _quiet():
        network = torch.jit.load(io.BytesIO(content))

    def predict(log_mel: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(log_mel)).numpy()

    return predict


_WRITERS = {"onnx": _to_onnx, "torchscript": _to_torchscript}
_PREDICTORS = {"onnx": onnx_predictor, "torchscript": torchscript_predictor}


def _shapes(network: Network, frames: int | None, usual: int) -> list[tuple[int, int]]:
    """Batches and frames to try an exported network with."""
    others = {1, network.min_frames, 2 * usual + 1} - {usual} if frames is None else set()
    return [(1, usual), (3, usual), *((2, n) for n in sorted(others))]


def _check(network: Network, predictor: Predictor, shapes: Sequence[tuple[int, int]], name: str) -> None:
    """Raise ExportError unless the exported network gives what the network gives."""
    for batch, frames in shapes:
        log_mel = _noise(network, batch, frames)
        with torch.inference_mode():
            expected = network(log_mel).numpy()
        found = predictor(log_mel.numpy())
        bound = TOLERANCE * max(1.0, float(np.abs(expected).max()))
        # Written so that NaN is a difference.
        if found.shape != expected.shape or not np.abs(found - expected).max() <= bound:
            raise ExportError(f"{name}: gives other logits than the checkpoint for {batch} segments of {frames} frames")


def _noise(network: Network, batch: int, frames: int) -> torch.Tensor:
    """[B, M, T] as a network expects them: of the mean and deviation of the clips it was trained on."""
    shape = batch, network.mean.shape[0], frames
    return network.mean + network.std * torch.randn(shape, generator=torch.Generator().manual_seed(0))
