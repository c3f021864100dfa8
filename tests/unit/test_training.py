"""What several training workers do together, schedules, seeds."""

import math

import numpy as np
import pytest
import torch

from audioclf import models, training
from audioclf.audio.frontend import get_front_end
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.shards import Examples

SPEC = get_front_end("logmel44k")
TRIO = Vocabulary(("a", "b", "c"), multi_label=False)


def examples(n: int, labels: list[list[str]] | None = None) -> Examples:
    log_mel = np.random.default_rng(0).normal(-40, 10, (n, 128, 130)).astype(np.float16)
    columns = {"labels": labels or [["abc"[i % 3]] for i in range(n)]}
    return Examples(SPEC, log_mel, np.full(n, 130), columns)


def gradients(share: training.Share, multi_label: bool) -> list[torch.Tensor]:
    """Of the one step of an epoch; no dropout, since workers draw their own."""
    labels = [["a", "b"], ["c"], [], ["b"], ["a"], ["c"]] if multi_label else None
    data, how = examples(6, labels), Training(epochs=1, batch_size=6, dropout=0.0, optimizer="sgd", l2=0.1)
    vocabulary = Vocabulary(TRIO.names, multi_label)
    network = training.build_network(how, data, vocabulary, seed=0)
    training.Trainer(data, vocabulary, how, 0, network, share).epoch(0)
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("workers", "multi_label"), [(2, False), (4, True)])
def test_the_mean_of_the_workers_gradients_is_that_of_one_worker(workers: int, multi_label: bool) -> None:
    alone = gradients(training.Share(), multi_label)
    shares = [gradients(training.Share(rank, workers), multi_label) for rank in range(workers)]
    for i, expected in enumerate(alone):
        mean = torch.stack([share[i] for share in shares]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-5)


def test_the_penalty_is_on_the_dense_layers_weights_alone() -> None:
    network = models.build("sbcnn", 128, 3)
    named = {id(p): name for name, p in network.named_parameters()}
    assert sorted(named[id(weight)] for weight in network.regularised()) == ["dense1.weight", "dense2.weight"]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5] * 4),
        # Two epochs of two steps: the rate before step k is 0.5 · (1 + cos(π · k / 4)) / 2.
        ("cosine", [0.25 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    schedule: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = Training(epochs=2, batch_size=3, learning_rate=0.5, schedule=schedule)  # pyright: ignore[reportArgumentType]
    data = examples(6)
    network = training.build_network(how, data, TRIO, seed=0)
    learner = training.Trainer(data, TRIO, how, 0, network, training.Share())
    rates: list[float] = []
    monkeypatch.setattr(learner.optimizer, "step", lambda: rates.append(learner.optimizer.param_groups[0]["lr"]))
    for epoch in range(2):
        learner.epoch(epoch)
    assert rates == pytest.approx(expected)


def test_every_row_is_seen_once_in_an_epoch_by_one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def note(
        log_mel: torch.Tensor, valid: np.ndarray, rows: np.ndarray, where: np.ndarray, frames: int
    ) -> torch.Tensor:
        seen.extend(rows.tolist())
        assert ((where >= 0) & (where < 1)).all()
        return torch.zeros(len(rows), 128, frames)

    monkeypatch.setattr(training, "draw_patches", note)
    how, data = Training(epochs=1, batch_size=4), examples(11)
    for rank in range(3):
        network = training.build_network(how, data, TRIO, seed=0)
        training.Trainer(data, TRIO, how, 0, network, training.Share(rank, 3)).epoch(0)
    assert sorted(seen) == list(range(11))


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(7)  # whatever was drawn before
        return training.build_network(Training(), examples(3), TRIO, seed).state_dict()["conv1.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_any_of_a_clips_labels_is_a_hit() -> None:
    """As in the accuracy of an evaluation."""
    data = examples(4, [["a", "b"]] * 4)
    vocabulary = Vocabulary(("a", "b", "c"), multi_label=True)
    how = Training(epochs=1, batch_size=4, dropout=0.0)
    network = training.build_network(how, data, vocabulary, seed=0)
    with torch.no_grad():
        network.get_parameter("dense2.weight").zero_()
        network.get_parameter("dense2.bias").copy_(torch.tensor([0.0, 5.0, 0.0]))  # always b
    assert training.Trainer(data, vocabulary, how, 0, network, training.Share()).epoch(0)[1] == 4
