"""What texture statistics say of the classes: fitted to the training clips before the network beside them learns.

A linear classifier, whose best weights are found at once. Learning from the crops, mixtures and masks of a training
step it would learn less: statistics of half a mixture are not half of its statistics.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from audioclf.audio.frontend import FrontEnd
from audioclf.audio.pcm import Pcm
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.models.texture import Texture
from audioclf.torch_front_end import TorchFrontEnd, to_waveforms
from audioclf.training_input import as_tensor
from audioclf.training_rows import Rows

MOST_ROWS = 4096
"""Of which statistics are taken, at each of the speeds: 100 MB."""
N_SPEEDS = 5
"""At which waveforms are heard where --speed changes them, evenly from the slowest to the fastest."""
STRENGTH = 3.0
"""Of the L2 penalty, against the loss summed over rows: of the more of them, the less it weighs."""
STEPS = 100


def fit(network: Network, rows: Rows, vocabulary: Vocabulary, training: Training, spec: FrontEnd) -> None:
    """Let a network's texture learn its vote from rows as they are, and at other speeds; nothing is drawn.

    Args:
        network: that has a texture, and standardises its input already.
        rows: to learn from.
        vocabulary: of their labels.
        training: whose speed counts.
        spec: the network's front end.
    """
    texture = network.texture
    assert texture is not None
    sample = rows.sample(MOST_ROWS, np.random.default_rng(0))
    sample = sample[np.linspace(0, len(sample) - 1, min(len(sample), MOST_ROWS)).astype(np.int64)]
    statistics, targets = [], []
    with torch.no_grad():
        for some, pictures in _pictures(rows, sample, training, spec):
            statistics.append(texture.statistics(network.standardise(pictures).squeeze(1)))
            targets.append(torch.from_numpy(vocabulary.targets(rows.labels(some))))
    _fit(texture, torch.cat(statistics), torch.cat(targets), vocabulary.multi_label, STRENGTH / len(sample))


def _pictures(
    rows: Rows, sample: np.ndarray, training: Training, spec: FrontEnd
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Indices of some rows and their pictures [B, M, T], once for each speed."""
    batches = np.array_split(sample, -(-len(sample) // 64))
    front_end = TorchFrontEnd(spec)
    for some, stored in zip(batches, rows.batches(batches), strict=True):
        if not isinstance(rows.front_end, Pcm):
            yield some, as_tensor(stored).float()
            continue
        heard = to_waveforms(as_tensor(stored))[:, None]
        for speed in np.geomspace(1 / training.speed, training.speed, N_SPEEDS) if training.speed != 1 else (1.0,):
            played = F.interpolate(heard, round(heard.shape[2] / speed), mode="linear", align_corners=True)
            yield some, front_end(played.squeeze(1))


def _fit(texture: Texture, statistics: torch.Tensor, targets: torch.Tensor, multi_label: bool, penalty: float) -> None:
    """Multinomial, or for several labels binomial, logistic regression with an L2 penalty, by L-BFGS."""
    texture.mean.copy_(statistics.mean(0))
    texture.std.copy_(statistics.std(0, unbiased=False).clamp(min=1e-3))
    standardised = texture.standardise(statistics)
    weight = torch.zeros_like(texture.weight, requires_grad=True)
    bias = torch.zeros_like(texture.bias, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

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
