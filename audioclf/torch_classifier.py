"""A network of PyTorch as a classifier of NumPy arrays."""

import numpy as np
import torch

from audioclf.inference import Outputs
from audioclf.models import Network


class TorchClassifier:
    """Computes by PyTorch, where the network is: the reference for all others.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: Network):
        self._network = network
        self._device = network.mean.device
        self.patch_frames = network.patch_frames

    @torch.inference_mode()
    def __call__(self, log_mel: np.ndarray) -> Outputs:
        """Of [B, M, T] float32."""
        batch = torch.from_numpy(np.ascontiguousarray(log_mel))
        if self._device.type == "cuda":
            batch = batch.pin_memory().to(self._device, non_blocking=True)
        # By PyTorch's default a GPU convolves in TF32, whose probabilities differ from a CPU's by up to 1e-3.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            embeddings = self._network.embed(batch)
            logits = self._network.classify(embeddings)
        return Outputs(logits.cpu().numpy(), embeddings.cpu().numpy())
