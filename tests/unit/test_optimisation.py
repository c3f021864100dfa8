"""Learning rates, layers and running averages: against torch's own and against the formulas."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from audioclf import models, optimisation
from audioclf.config import Training
from audioclf.models import Network


def network() -> Network:
    torch.manual_seed(0)
    return models.build("sbcnn", n_mels=128, n_classes=3, dropout=0.0)


def torch_rates(scheduler: torch.optim.lr_scheduler.LRScheduler, n: int) -> list[float]:
    rates = []
    for _ in range(n):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def test_the_cosine_is_torchs() -> None:
    theirs = torch_rates(CosineAnnealingLR(sgd(0.1), 100), 100)
    ours = [optimisation.learning_rate(Training(epochs=10, learning_rate=0.1), step / 10) for step in range(100)]
    assert ours == pytest.approx(theirs, abs=1e-9)


def test_the_one_cycle_is_torchs() -> None:
    # torch's rise ends at step 0.3 · n − 1 and its fall at n − 1, of n steps; ours at 0.3 · n and at n.
    n = 10_000
    theirs = torch_rates(OneCycleLR(sgd(0.1), 0.1, total_steps=n, cycle_momentum=False), n)
    training = Training(epochs=10, learning_rate=0.1, schedule="one-cycle")
    ours = [optimisation.learning_rate(training, 10 * step / n) for step in range(n)]
    assert ours == pytest.approx(theirs, abs=0.1 * 1e-3)


def test_the_warm_up_rises_evenly_to_the_schedule() -> None:
    training = Training(epochs=10, learning_rate=0.4, warmup_epochs=2)
    assert [optimisation.learning_rate(training, epoch) for epoch in (0, 0.5, 1, 2)] == [0, 0.1, 0.2, 0.4]
    assert optimisation.learning_rate(training, 6) == pytest.approx(0.2)
    assert optimisation.learning_rate(replace(training, schedule="constant"), 9.9) == 0.4


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_with_the_head_first_the_schedule_runs_twice(schedule: Literal["cosine", "one-cycle"]) -> None:
    training = Training(epochs=10, freeze="head-first", unfreeze_epochs=4, schedule=schedule)
    head, all_layers = (Training(epochs=n, schedule=schedule) for n in (4, 6))
    for epoch in (0, 1.5, 3.9):
        assert optimisation.learning_rate(training, epoch) == optimisation.learning_rate(head, epoch)
    for epoch in (0, 2.5, 5.9):
        rate = optimisation.learning_rate(training, 4 + epoch)
        assert rate == pytest.approx(optimisation.learning_rate(all_layers, epoch))


@pytest.mark.parametrize(
    ("freeze", "frozen_at"),
    [("none", [0, 0, 0, 0]), ("backbone", [4, 4, 4, 4]), ("gradual", [4, 4, 3, 3]), ("head-first", [4, 4, 0, 0])],
)
def test_layers_are_frozen_from_the_input_on(freeze: str, frozen_at: list[int]) -> None:
    training = Training(freeze=freeze, unfreeze_epochs=2)  # pyright: ignore[reportArgumentType]
    assert [optimisation.n_frozen(training, 5, epoch) for epoch in range(4)] == frozen_at
    assert optimisation.n_frozen(training, 5, 100) == (4 if freeze == "backbone" else 0)


def test_frozen_layers_keep_weights_and_batch_statistics() -> None:
    net = models.build("crnn", n_mels=128, n_classes=3, dropout=0.0)
    training = Training(freeze="gradual", learning_rate=0.1)
    layers = optimisation.layers(net)
    optimizer = optimisation.optimizer(net, training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    optimisation.freeze(layers, len(layers) - 1)
    F.cross_entropy(net(torch.randn(4, 128, 96)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{net.head}.weight", f"{net.head}.bias"}


def test_a_layers_learning_rate_is_a_share_of_the_next_ones() -> None:
    net = network()
    optimizer = optimisation.optimizer(net, Training(layer_decay=0.5, weight_decay=0.1))
    optimisation.set_learning_rate(optimizer, 1.0)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    rates = {name: of[id(p)]["lr"] for name, p in net.named_parameters()}
    names = ["conv1", "conv2", "conv3", "dense1", "dense2"]
    assert rates == {f"{name}.{kind}": 0.5 ** (4 - i) for i, name in enumerate(names) for kind in ("weight", "bias")}
    assert {name: of[id(p)]["weight_decay"] for name, p in net.named_parameters()} == {
        f"{name}.{kind}": 0.1 if kind == "weight" else 0 for name in names for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)]
)
def test_optimizers_are_torchs(name: str, theirs: type[torch.optim.Optimizer]) -> None:
    optimizer = optimisation.optimizer(network(), Training(optimizer=name))  # pyright: ignore[reportArgumentType]
    assert type(optimizer) is theirs


def test_the_running_average_is_the_formulas() -> None:
    net = network()
    average = optimisation.averaged(net, decay=0.9)
    weight, kept = (one.get_parameter("dense2.weight") for one in (net, average.module))
    expected = 0.0
    for step in range(5):
        with torch.no_grad():
            weight.fill_(float(step))
        average.update_parameters(net)
        expected = 0.9 * expected + 0.1 * step  # of 0 at step 0, where it takes the weights as they are
    assert math.isclose(kept[0, 0].item(), expected, rel_tol=1e-6)
