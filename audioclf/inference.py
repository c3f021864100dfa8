"""Class probabilities of segments by a trained network. Plain torch, no Ray."""

import warnings

import numpy as np
import torch

from audioclf.models import Network

PATCH_HOP_FRAMES = 8
"""From one patch to the next in evaluation: 0.19 s of logmel44k. The paper's is a single
frame; this costs an eighth."""


@torch.inference_mode()
def predict(
    network: Network, log_mel: np.ndarray, valid_frames: np.ndarray, multi_label: bool, batch_size: int
) -> np.ndarray:
    """Class probabilities of segments, for a network of patches the mean over those every PATCH_HOP_FRAMES.

    Args:
        network: in evaluation mode.
        log_mel: [N, M, T] float16 or float32, of the network's front end.
        valid_frames: [N].
        multi_label: sigmoid instead of softmax.
        batch_size: patches in a forward pass.

    Returns:
        [N, C] float32.
    """
    frames = network.patch_frames or log_mel.shape[2]
    room = np.maximum(np.minimum(valid_frames, log_mel.shape[2]) - frames, 0)
    pairs = [(row, start) for row, last in enumerate(room) for start in range(0, int(last) + 1, PATCH_HOP_FRAMES)]
    rows, starts = (torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
    device = network.mean.device
    pictures = as_tensor(log_mel)
    total = torch.zeros(len(log_mel), network.n_classes)
    for first in range(0, len(rows), batch_size):
        some = slice(first, first + batch_size)
        logits = network(patches_at(pictures, rows[some], starts[some], frames).to(device))
        probabilities = torch.sigmoid(logits) if multi_label else torch.softmax(logits, 1)
        total.index_add_(0, rows[some], probabilities.cpu())
    counts = torch.bincount(rows, minlength=len(log_mel))
    return (total / counts[:, None]).numpy()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor over the same memory, only to be read from."""
    with warnings.catch_warnings():
        # Arrays from Ray's object store are read-only, and torch knows no such tensors.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def patches_at(log_mel: torch.Tensor, rows: torch.Tensor, starts: torch.Tensor, frames: int) -> torch.Tensor:
    """[B, M, frames] float32; frames beyond a segment too short for a patch repeat its last one (padding)."""
    times = (starts[:, None] + torch.arange(frames)).clamp(max=log_mel.shape[2] - 1)
    bands = torch.arange(log_mel.shape[1])
    return log_mel[rows[:, None, None], bands[None, :, None], times[:, None, :]].float()
