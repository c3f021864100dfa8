"""A network exported to ONNX as a classifier of NumPy arrays: on a CPU two to three times as fast as PyTorch.

Imports neither torch nor the checkpoint it was made from: the file says all there is to know.
"""

import json

import numpy as np
import onnxruntime

from audioclf.inference import Outputs

DESCRIPTION = "export.json"
"""The file's metadata of this name say how it is to be used; see audioclf/export.py."""

INPUT, LOGITS, EMBEDDING = "log_mel", "logits", "embedding"


class OnnxClassifier:
    """Computes by ONNX Runtime in one thread of a CPU.

    Args:
        content: of a file that jobs/export.py wrote.
    """

    def __init__(self, content: bytes):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        about = json.loads(self._session.get_modelmeta().custom_metadata_map[DESCRIPTION])
        self.patch_frames: int | None = about["patch_frames"]

    def __call__(self, log_mel: np.ndarray) -> Outputs:
        """Of [B, M, T] float32."""
        logits, embeddings = self._session.run([LOGITS, EMBEDDING], {INPUT: log_mel})
        return Outputs(np.asarray(logits), np.asarray(embeddings))
