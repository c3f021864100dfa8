"""A network that nobody trained: what it says means nothing, and is always the same."""

import torch

from audioclf import models
from audioclf.audio.frontend import get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.labels import Vocabulary


def untrained(vocabulary: Vocabulary) -> Checkpoint:
    """An sbcnn over logmel44k and segments of a second."""
    torch.manual_seed(0)
    network = models.build("sbcnn", 128, len(vocabulary)).eval()
    network.mean.fill_(-40)
    network.std.fill_(20)
    return Checkpoint(network, "sbcnn", get_front_end("logmel44k"), vocabulary, 1.0, {}, {})
