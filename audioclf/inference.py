"""Class probabilities of segments by a trained network, whatever computes it. Plain NumPy: no torch, no Ray."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

PATCH_HOP_FRAMES = 8
"""From one patch to the next in evaluation: 0.19 s of logmel44k. The paper's is a single
frame; this costs an eighth."""


class Outputs(NamedTuple):
    """What a network gives for a batch: logits [B, C] and embeddings [B, E], float32."""

    logits: np.ndarray
    embeddings: np.ndarray


class Classifier(Protocol):
    """A trained network: `torch_classifier.TorchClassifier` or `onnx_classifier.OnnxClassifier`.

    Attributes:
        patch_frames: the number of frames it takes, longer segments being seen patch by patch; None: any.
    """

    patch_frames: int | None

    def __call__(self, log_mel: np.ndarray) -> Outputs:
        """Of [B, M, T] float32, the front end's values."""
        ...


class Predicted(NamedTuple):
    """Of each segment: class probabilities [N, C] and an embedding [N, E], float32."""

    probabilities: np.ndarray
    embeddings: np.ndarray


def predict(
    classifier: Classifier, log_mel: np.ndarray, valid_frames: np.ndarray, multi_label: bool, batch_size: int
) -> Predicted:
    """Probabilities and embeddings of segments, for a network of patches the mean over those every PATCH_HOP_FRAMES.

    Args:
        classifier: the network.
        log_mel: [N, M, T] float16 or float32, of the network's front end; N ≥ 1.
        valid_frames: [N]; patches begin and, where a segment is long enough, end within them.
        multi_label: sigmoid instead of softmax.
        batch_size: patches in a forward pass.
    """
    frames = classifier.patch_frames or log_mel.shape[2]
    room = np.maximum(np.minimum(valid_frames, log_mel.shape[2]) - frames, 0)
    pairs = [(row, start) for row, last in enumerate(room) for start in range(0, int(last) + 1, PATCH_HOP_FRAMES)]
    rows, starts = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    parts = []
    for some in _slices(len(rows), batch_size):
        logits, embeddings = classifier(_patches(log_mel, rows[some], starts[some], frames))
        parts.append((sigmoid(logits) if multi_label else softmax(logits), embeddings))
    probabilities, embeddings = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(rows) == len(log_mel):
        return Predicted(probabilities, embeddings)
    return Predicted(_mean_by(rows, probabilities), _mean_by(rows, embeddings))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−x), without overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(logits.dtype)


def softmax(logits: np.ndarray) -> np.ndarray:
    """[B, C] rows that add up to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def _patches(log_mel: np.ndarray, rows: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
    """[B, M, frames] float32; frames beyond a segment too short for a patch repeat its last one."""
    if frames == log_mel.shape[2]:  # one patch of each segment
        return log_mel[rows[0] : rows[-1] + 1].astype(np.float32, copy=False)
    times = np.minimum(starts[:, None] + np.arange(frames), log_mel.shape[2] - 1)
    bands = np.arange(log_mel.shape[1])
    return log_mel[rows[:, None, None], bands[None, :, None], times[:, None, :]].astype(np.float32, copy=False)


def _mean_by(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean over the neighbouring rows of each segment."""
    begins = np.flatnonzero(np.diff(rows, prepend=-1))
    counts = np.diff(begins, append=len(rows))
    return np.add.reduceat(values, begins, axis=0) / counts[:, None].astype(values.dtype)
