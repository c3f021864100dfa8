"""Networks by name: their size, what they take, and that everything that is done with a network works with each."""

import copy
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from audioclf import models, optimisation
from audioclf.errors import ConfigError
from audioclf.models import Network

PANNS = ("cnn6", "cnn10", "cnn14", "mobilenetv1", "mobilenetv2")
TIMM = ("timm:test_resnet", "timm:test_vit", "timm:test_efficientnet")
ALL = ("sbcnn", "crnn", "crnn8", "crnn8-texture", *PANNS, "mn01", "mn04", *TIMM)
SMALL = tuple(name for name in ALL if name != "cnn14")  # 80 M parameters, built of what cnn10 is

pytestmark = [pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"), pytest.mark.usefixtures("one_thread")]


def n_mels(name: str) -> int:
    return 64 if name in PANNS else 128


def build(name: str, n_classes: int = 5, dropout: float | None = 0.0) -> Network:
    torch.manual_seed(0)
    return models.build(name, n_mels(name), n_classes, dropout)


def pictures(name: str, n_frames: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, n_mels(name), n_frames, generator=torch.Generator().manual_seed(1))


def settled(name: str, n_classes: int = 5) -> Network:
    """A network in evaluation mode with the batch statistics of noise: a fresh one's features fade to nothing."""
    network = build(name, n_classes)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pictures(name, 128 if name == "sbcnn" else 48, 4))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if network.texture is not None:  # which a fresh network hears nothing by
        network.texture.weight.normal_(std=0.1)
    return network.eval()


def require_near(ours: torch.Tensor, theirs: torch.Tensor, share: float = 1e-4) -> None:
    """Raise AssertionError unless they differ by no more than a share of what tells one row or class from another."""
    spread = (theirs - theirs.mean()).abs().max()
    assert spread > 0
    assert (ours - theirs).abs().max() <= share * spread


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# --- names and sizes


@pytest.mark.parametrize(
    ("name", "n_classes", "expected"),
    [
        ("sbcnn", 10, 241_434),
        ("crnn", 10, 540_594),
        ("crnn16", 10, 320_890),
        ("crnn16-texture", 10, 320_890),
        ("cnn6", 527, 4_837_455),
        ("cnn10", 527, 5_219_279),
        ("cnn14", 527, 80_753_615),
        ("mobilenetv1", 527, 4_796_303),
        ("mobilenetv2", 527, 4_075_343),
        ("mn04", 527, 983_599),
    ],
)
def test_networks_are_of_their_size(name: str, n_classes: int, expected: int) -> None:
    assert n_parameters(build(name, n_classes)) == expected


@pytest.mark.parametrize(("name", "millions", "values"), [("mn10", 4.88, 4_901_277), ("mn40", 68.4, None)])
def test_wider_mns_are_of_the_published_sizes(name: str, millions: float, values: int | None) -> None:
    network = build(name, 527)
    assert n_parameters(network) / 1e6 == pytest.approx(millions, rel=2e-3)
    if values is not None:  # in the published file, batch statistics and counters among them
        ours = sum(value.numel() for key, value in network.state_dict().items() if key not in ("mean", "std"))
        assert ours == values


@pytest.mark.parametrize(("name", "width"), [("mn04", 384), ("mn10", 960), ("mn01", 96), ("cnn10", 512), ("sbcnn", 64)])
def test_embeddings_are_of_the_published_width(name: str, width: int) -> None:
    with torch.inference_mode():
        assert build(name).eval().embed(pictures(name, 40)).shape == (2, width)


@pytest.mark.parametrize("name", ["cnn99", "mn00", "mn4", "mn004", "mnxx", "resnet18", "", "timm", "timm:"])
def test_unknown_names_are_refused_and_the_known_ones_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is unknown; there are: .*crnn.*sbcnn.*mn01 to mn99.*timm:NAME"):
        models.check_name(name)
    with pytest.raises(ConfigError, match="is unknown"):
        models.build(name, 128, 10)


def test_unknown_timm_networks_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"timm:resnet81: timm .* has no such network; did you mean .*resnet18"):
        models.check_name("timm:resnet81")
    with pytest.raises(ConfigError, match="no such network"):
        models.check_name("timm:hf-hub:someone/something")


def test_without_timm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install audioclf\[timm\]"):
        models.check_name("timm:resnet18")
    models.check_name("mn04")


def test_timm_networks_that_can_not_be_used_are_refused() -> None:
    with pytest.raises(ConfigError, match="timm:test_coatnet: takes pictures of one size only"):
        models.build("timm:test_coatnet", 128, 5)
    with pytest.raises(ConfigError, match="timm:test_convnext: does not take pictures of 20 bands and 45 frames"):
        models.build("timm:test_convnext", 20, 5)


@pytest.mark.parametrize("name", ["sbcnn", "cnn6", "cnn14", "mobilenetv1", "mobilenetv2", "crnn"])
def test_too_few_bands_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} takes .* mel bands.* the front end gives 8"):
        models.build(name, 8, 10)


@pytest.mark.parametrize(
    ("name", "n"),
    [("crnn", 16), ("crnn", 20), ("crnn", 63), ("crnn", 256), ("mn04", 20), ("cnn10", 128), ("timm:test_resnet", 64)],
)
def test_other_numbers_of_bands_are_taken(name: str, n: int) -> None:
    with torch.inference_mode():
        assert models.build(name, n, 7).eval()(torch.randn(3, n, 50)).shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("sbcnn", 0.5),
        ("cnn10", 0.5),
        ("mobilenetv1", 0.5),
        ("mobilenetv2", 0.0),
        ("mn04", 0.2),
        ("timm:test_resnet", 0.0),
    ],
)
def test_dropout_is_as_published_unless_given(name: str, published: float) -> None:
    for given, expected in ((None, published), (0.0, 0.0), (0.25, 0.25)):
        network = models.build(name, n_mels(name), 5, given)
        own = [m.p for path, m in network.named_modules() if isinstance(m, nn.Dropout) and "backbone" not in path]
        assert own == [expected]


# --- input of any length


@pytest.mark.parametrize("name", SMALL)
def test_a_short_segment_goes_on_with_its_last_frame(name: str) -> None:
    network = settled(name)
    # Apart from the first band, whose scale shows whether padding is of values or of zeros.
    network.mean.fill_(-40.0)
    network.std.fill_(3.0)
    whole = -40 + 3 * pictures(name, network.min_frames)
    with torch.inference_mode():
        for n in {1, 7, network.min_frames - 1} & set(range(1, network.min_frames)):
            padded = torch.cat([whole[..., :n], whole[..., n - 1 : n].expand(-1, -1, network.min_frames - n)], 2)
            require_near(network(whole[..., :n]), network(padded))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n_frames", [1, 2, 15, 33, 40, 101])
def test_any_length_is_taken(name: str, n_frames: int) -> None:
    with torch.inference_mode():
        logits = settled(name)(pictures(name, n_frames))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name in SMALL if name != "sbcnn"])
def test_every_frame_of_a_long_segment_counts(name: str) -> None:
    network = settled(name)
    picture = pictures(name, 160, 1)
    other = picture.clone()
    other[..., -8:] += 3
    with torch.inference_mode():
        logits = network(picture)
        assert (network(other) - logits).abs().max() > 1e-3 * logits.abs().max()


# --- parts


@pytest.mark.parametrize("name", ALL)
def test_stages_and_head_hold_every_parameter_once(name: str) -> None:
    network = build(name)
    held = [id(parameter) for layer in optimisation.layers(network) for parameter in layer.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in network.parameters()}
    assert all(any(True for _ in stage.parameters()) for stage in network.stages())


@pytest.mark.parametrize("name", SMALL)
def test_stages_are_in_the_order_of_the_signal(name: str) -> None:
    network = settled(name)
    called: list[int] = []
    for i, stage in enumerate(network.stages()):
        stage.register_forward_hook(lambda *_, i=i: called.append(i))
    with torch.inference_mode():
        network(pictures(name, 128))
    assert called == sorted(called)
    assert len(called) == len(network.stages())


@pytest.mark.parametrize("name", SMALL)
def test_the_head_can_be_replaced(name: str) -> None:
    network = settled(name)
    batch = pictures(name, 40)
    with torch.inference_mode():
        before = network.embed(batch)
        network.replace_head(3)
        assert network.n_classes == 3
        assert torch.equal(network.embed(batch), before)
        assert torch.equal(network(batch), network.classify(before))
        assert network(batch).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mn04", {"classifier.2.weight", "classifier.5.weight"}),
        ("cnn6", {"fc1.weight", "fc_audioset.weight"}),
        ("crnn", {"classifier.weight"}),
        ("timm:test_vit", {"classifier.weight"}),
    ],
)
def test_dense_weights_are_those_of_the_last_layers(name: str, expected: set[str]) -> None:
    network = build(name)
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    assert {names[id(weight)] for weight in network.dense_weights()} == expected


# --- what is done with networks


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name: str) -> None:
    """What DistributedDataParallel asks for; and each logit has its part."""
    network = build(name).train()
    F.cross_entropy(network(pictures(name, 70, 4)), torch.arange(4)).backward()
    without = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
    first = next(network.stages()[0].parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_gives_nearly_the_same(name: str) -> None:
    network = settled(name)
    batch = pictures(name, 70)
    with torch.inference_mode():
        exact = network(batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(batch).float()
    require_near(rounded, exact, 0.5)  # bfloat16 keeps 8 bits: 0.4 % a step, over fifty layers that nobody trained
    network.train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(batch)
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_the_memory_format_does_not_matter(name: str) -> None:
    network = settled(name)
    last = [weight for weight in network.parameters() if weight.ndim == 4 and weight.shape[1] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in last)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    batch = pictures(name, 70)
    with torch.inference_mode():
        require_near(plain(batch), network(batch), 1e-3)


@pytest.mark.heavy  # test_export.py writes each of them to files and compares these
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n_frames", [9, 100])
def test_networks_are_exported(name: str, n_frames: int) -> None:
    network = settled(name)
    batch = pictures(name, n_frames)
    exported = torch.export.export(network, (batch,)).module()
    with torch.inference_mode():
        require_near(exported(batch), network(batch))


def trace(network: Network, batch: torch.Tensor) -> Any:
    return torch.jit.trace(network, batch, check_trace=False)


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_traced(name: str) -> None:
    network = settled(name)
    batch = pictures(name, 9)
    with torch.inference_mode(), warnings.catch_warnings():
        if name.startswith("timm:"):  # some look at their input's shape
            warnings.filterwarnings("ignore", message="Converting a tensor")
        require_near(trace(network, batch)(batch), network(batch))


@pytest.mark.parametrize("name", ["sbcnn", "crnn", "crnn8-texture", "cnn6", "mobilenetv2", "mn04"])
def test_a_trace_of_a_short_segment_takes_a_long_one(name: str) -> None:
    network = settled(name)
    longer = pictures(name, 128 if name == "sbcnn" else 75)
    with torch.inference_mode():
        require_near(trace(network, pictures(name, 9))(longer), network(longer))


@pytest.mark.parametrize("name", ["crnn", "crnn8-texture", "mn04"])
def test_gradients_are_the_same_in_data_parallel(name: str, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        network = build(name).train()
        wrapped = DistributedDataParallel(copy.deepcopy(network))
        batch = pictures(name, 50, 4)
        for one in (network, wrapped):
            F.cross_entropy(one(batch), torch.arange(4)).backward()
        for ours, theirs in zip(network.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(theirs.grad, ours.grad)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", SMALL)
def test_averages_of_weights_can_be_kept(name: str) -> None:
    network = build(name).train()
    average = optimisation.averaged(network, 0.5)
    with torch.no_grad():
        network(pictures(name, 50, 4))
    average.update_parameters(network)
    with torch.inference_mode():
        assert average.module.eval()(pictures(name, 50)).shape == (2, 5)


@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("timm:")])
def test_dropout_is_off_in_evaluation_and_on_in_training(name: str) -> None:
    network = build(name, dropout=0.5)
    batch = pictures(name, 50)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(batch), network(batch))
        network.train()
        assert not torch.equal(network(batch), network(batch))


# --- crnn


def test_crnn_is_cheap() -> None:
    network = models.build("crnn", 128, 10).eval()
    shapes: list[torch.Size] = []
    gru = next(module for module in network.modules() if isinstance(module, nn.GRU))
    gru.register_forward_hook(lambda module, args, output: shapes.append(args[0].shape))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.randn(1, 128, 216))
    # The counter knows no recurrent layers: each step multiplies by every matrix once.
    recurrent = shapes[0][1] * sum(parameter.numel() for parameter in gru.parameters() if parameter.ndim == 2)
    assert counter.get_total_flops() / 2 + recurrent < 400e6


def test_crnn_learns_a_tiny_set() -> None:
    torch.manual_seed(0)
    targets = torch.arange(12) % 3
    batch = torch.randn(12, 64, 60)
    for i, target in enumerate(targets):
        batch[i, 16 * int(target) : 16 * int(target) + 16] += 0.7
    network = models.build("crnn", 64, 3).train()
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(network(batch), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    with torch.inference_mode():
        assert (network.eval()(batch).argmax(1) == targets).all()


def test_crnn_hears_the_order_of_events() -> None:
    """What a mean over time alone would not: the same frames backwards."""
    network = settled("crnn")
    picture = pictures("crnn", 96, 1)
    with torch.inference_mode():
        logits = network(picture)
        assert (network(picture.flip(2)) - logits).abs().max() > 1e-2 * logits.abs().max()
