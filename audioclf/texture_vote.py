"""What texture statistics say of the classes: fitted to the training clips before the network beside them learns.

A linear classifier, whose best weights are found at once. Learning from the crops, mixtures and masks of a training
step it would learn less: statistics of half a mixture are not half of its statistics.
"""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F

from audioclf.audio.frontend import FrontEnd
from audioclf.audio.pcm import Pcm
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.models.texture import Texture
from audioclf.sampling import RowDraw, balanced_weights, draw_segments
from audioclf.torch_front_end import TorchFrontEnd, to_waveforms
from audioclf.training_input import as_tensor
from audioclf.training_rows import Rows, Share
from audioclf.waveform_augment import played

MOST_SEGMENTS = 4096
"""Of which statistics are taken; of more, so many are drawn, rare classes as often as common ones."""
ROUNDS = 5
"""Of the segments: at speeds evenly from the slowest to the fastest, where --speed changes them, and with other
copies, where there are any."""
BATCH_SEGMENTS = 16
"""Of ten seconds, their modulation spectra take 150 MB."""
STRENGTH = 3.0
"""Of the L2 penalty, against the loss summed over segments: of the more of them, the less it weighs."""
STEPS, HISTORY = 100, 10
"""Of L-BFGS."""


def fit(
    network: Network, rows: Rows, row_weights: np.ndarray, vocabulary: Vocabulary, training: Training, spec: FrontEnd
) -> None:
    """Let a network's texture learn its vote from segments as they are, and at other speeds.

    Args:
        network: that has a texture, and standardises its input already.
        rows: to learn from.
        row_weights: [N] how often a row is taken, against the other rows of its segment.
        vocabulary: of their labels.
        training: whose speed and sampling count.
        spec: the network's front end.
    """
    texture = network.texture
    assert texture is not None
    rng = np.random.default_rng(0)
    draw = RowDraw(rows.columns["clip_id"], rows.columns["segment_index"], row_weights)
    segments = np.arange(len(draw))
    if training.sampling == "balanced" or len(draw) > MOST_SEGMENTS:
        segments = draw_segments(balanced_weights(rows.columns["labels"], draw.first_rows), rng)[:MOST_SEGMENTS]
    front_end = TorchFrontEnd(spec) if isinstance(rows.front_end, Pcm) else None
    changed = training.speed != 1 or len(rows) > len(draw)
    speeds = np.geomspace(1 / training.speed, training.speed, ROUNDS) if changed else np.ones(1)
    numbers = rng.random((len(speeds), len(segments)))  # all before a plan draws, of which streamed rows draw others
    statistics, targets = [], []
    for speed, which in zip(speeds.tolist(), numbers, strict=True):
        drawn = draw.draw(which, segments)
        plan = rows.plan(drawn, BATCH_SEGMENTS, Share(), rng)
        batches = [drawn[mine] for mine in plan.mine]
        with contextlib.closing(rows.batches(batches)) as read, torch.no_grad():
            for some, stored in zip(batches, read, strict=True):
                pictures = _pictures(as_tensor(stored), front_end, speed)
                statistics.append(texture.statistics(network.standardise(pictures).squeeze(1)))
                targets.append(torch.from_numpy(vocabulary.targets(rows.labels(some))))
    _fit(texture, torch.cat(statistics), torch.cat(targets), vocabulary.multi_label, STRENGTH / len(segments))


def _pictures(stored: torch.Tensor, front_end: TorchFrontEnd | None, speed: float) -> torch.Tensor:
    """[B, M, T] float32 of what shards hold: pictures, or waveforms that are played at a speed."""
    if front_end is None:
        return stored.float()
    heard = to_waveforms(stored)
    return front_end(heard if speed == 1 else played(heard, round(heard.shape[1] / speed)))


def _fit(texture: Texture, statistics: torch.Tensor, targets: torch.Tensor, multi_label: bool, penalty: float) -> None:
    """Multinomial, or for several labels binomial, logistic regression with an L2 penalty, by L-BFGS."""
    texture.mean.copy_(statistics.mean(0))
    texture.std.copy_(statistics.std(0, unbiased=False).clamp(min=1e-3))
    standardised = texture.standardise(statistics)
    weight = torch.zeros_like(texture.weight, requires_grad=True)
    bias = torch.zeros_like(texture.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=HISTORY, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        logits = F.linear(standardised, weight, bias)
        if multi_label:
            loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
        else:
            loss = F.cross_entropy(logits, targets, reduction="sum")
        loss = loss / len(targets) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)  # pyright: ignore[reportArgumentType]
    texture.weight.copy_(weight.detach())
    texture.bias.copy_(bias.detach())
