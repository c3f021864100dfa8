"""Published networks against what their authors' code makes of real clips, and against their definitions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audioclf import checkpoint, models
from audioclf.audio import segment
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid
from audioclf.checkpoint import Checkpoint

State = dict[str, torch.Tensor]
FIVE_SECONDS = Grid(32_000, 160_000, 160_000, min_tail=0.0)

# --- mn04 with its real weights


def existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {'/'.join(path.parts[-2:])} below AUDIOCLF_SHARED")
    return path


@pytest.fixture(scope="module")
def mn04(shared: Path) -> Checkpoint:
    return checkpoint.load_for(f"mn04:{existing(shared / 'weights' / 'mn04_as_mAP_432.pt')}")


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, np.ndarray]:
    """What the published code computes."""
    with np.load(existing(shared / "weights" / "mn04_reference.npz")) as stored:
        return dict(stored)


def embedding_and_logits(mn04: Checkpoint, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        embedding = mn04.network.embed(torch.from_numpy(pictures))
        return embedding.numpy(), mn04.network.classify(embedding).numpy()


def test_mn04_is_the_published_network(mn04: Checkpoint, published: dict[str, np.ndarray]) -> None:
    embedding, logits = embedding_and_logits(mn04, published["log_mel"])
    assert (embedding.shape, logits.shape) == ((4, 384), (4, 527))
    np.testing.assert_allclose(embedding, published["embedding"][:4], atol=2e-5)
    np.testing.assert_allclose(logits, published["logits"][:4], atol=2e-4)


def test_mn04_hears_the_same_in_waveforms(mn04: Checkpoint, published: dict[str, np.ndarray]) -> None:
    pictures = np.stack([log_mel(waveform, mn04.front_end) for waveform in published["waveform"]])
    embedding, logits = embedding_and_logits(mn04, pictures)
    np.testing.assert_allclose(embedding, published["embedding"][:4], atol=1e-3)
    np.testing.assert_allclose(logits, published["logits"][:4], atol=1e-3)
    # Shards hold float16.
    _, logits = embedding_and_logits(mn04, pictures.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(logits, published["logits"][:4], atol=1e-2)


def test_mn04_hears_the_same_in_files(mn04: Checkpoint, published: dict[str, np.ndarray], shared: Path) -> None:
    folder = existing(shared / "data" / "esc10" / "audio")
    assert len(published["clip"]) == 20
    for clip, theirs in zip(published["clip"], published["logits"], strict=True):
        path = folder / str(clip)
        with path.open("rb") as file, Recording(file, path.name) as recording:
            (first,) = segment.segments(recording, FIVE_SECONDS, stop=1)
        picture = log_mel(segment.cut(first.samples, FIVE_SECONDS.length), mn04.front_end)
        _, logits = embedding_and_logits(mn04, picture[None])
        np.testing.assert_allclose(logits[0], theirs, atol=1e-3, err_msg=str(clip))


def test_mn04_names_what_there_is_to_hear(mn04: Checkpoint, published: dict[str, np.ndarray]) -> None:
    assert (mn04.front_end, mn04.segment_s) == (get_front_end("efficientat32k"), 10.0)
    heard = {
        str(clip).split("/")[0]: {mn04.vocabulary.names[i] for i in logits.argsort()[-3:]}
        for clip, logits in zip(published["clip"], published["logits"], strict=True)
    }
    names = {
        "baby_cry": "Baby cry, infant cry",
        "chainsaw": "Chainsaw",
        "clock_tick": "Tick-tock",
        "dog_bark": "Dog",
        "person_sneeze": "Sneeze",
        "rain": "Rain",
        "rooster": "Chicken, rooster",
        "sea_waves": "Ocean",
    }
    assert {clip for clip, name in names.items() if name not in heard[clip]} == set()


# --- PANNs by their definition, on weights of the published names and shapes


def batch_norm(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    mean, variance, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, variance, weight, bias)


def mean_pool(x: torch.Tensor, stride: int) -> torch.Tensor:
    return x if stride == 1 else F.avg_pool2d(x, stride)


def conv(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """Padded to the same size; depthwise where the weights are of one channel and the picture is not."""
    weight = state[f"{name}.weight"]
    groups = x.shape[1] if weight.shape[1] == 1 else 1
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)


def head(x: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, E, T, M] features to embedding and logits."""
    x = x.mean(3)
    x = F.relu(F.linear(x.max(2).values + x.mean(2), state["fc1.weight"], state["fc1.bias"]))
    return x, F.linear(x, state["fc_audioset.weight"], state["fc_audioset.bias"])


def bands(pictures: torch.Tensor, state: State) -> torch.Tensor:
    """[B, M, T], each band normalised, as [B, 1, T, M]."""
    return batch_norm(pictures, state, "bn0").transpose(1, 2)[:, None]


def cnn(pictures: torch.Tensor, state: State, n_blocks: int, n_convs: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = bands(pictures, state)
    for i in range(1, n_blocks + 1):
        for j in range(1, n_convs + 1):
            x = F.relu(batch_norm(conv(x, state, f"conv_block{i}.conv{j}"), state, f"conv_block{i}.bn{j}"))
        x = mean_pool(x, 1 if i == 6 else 2)
    return head(x, state)


V1_STRIDES = [2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]


def mobilenet_v1(pictures: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
    x = bands(pictures, state)
    for i, stride in enumerate(V1_STRIDES):
        name = f"features.{i}"
        x = F.relu(batch_norm(mean_pool(conv(x, state, f"{name}.0"), stride), state, f"{name}.2"))
        if i:
            x = F.relu(batch_norm(conv(x, state, f"{name}.4"), state, f"{name}.5"))
    return head(x, state)


V2_ROWS = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 2), (6, 160, 3, 1), (6, 320, 1, 1)]
V2_BLOCKS = [(t, c, s if i == 0 else 1) for t, c, n, s in V2_ROWS for i in range(n)]


def mobilenet_v2(pictures: torch.Tensor, state: State) -> tuple[torch.Tensor, torch.Tensor]:
    x = mean_pool(conv(bands(pictures, state), state, "features.0.0"), 2)
    x = F.relu6(batch_norm(x, state, "features.0.2"))
    for i, (expansion, channels, stride) in enumerate(V2_BLOCKS, start=1):
        y, at = x, 0
        if expansion > 1:
            y, at = F.relu6(batch_norm(conv(y, state, f"features.{i}.conv.0"), state, f"features.{i}.conv.1")), 3
        y = mean_pool(conv(y, state, f"features.{i}.conv.{at}"), stride)
        y = F.relu6(batch_norm(y, state, f"features.{i}.conv.{at + 2}"))
        y = batch_norm(conv(y, state, f"features.{i}.conv.{at + 4}"), state, f"features.{i}.conv.{at + 5}")
        x = x + y if stride == 1 and x.shape[1] == channels else y
    last = len(V2_BLOCKS) + 1
    x = F.relu6(batch_norm(conv(x, state, f"features.{last}.0"), state, f"features.{last}.1"))
    return head(x, state)


def published_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights, front end left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, n: int) -> None:
        shapes.update({f"{name}.{key}": (n,) for key in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("bn0", 64)
    if name.startswith("cnn"):
        channels = (64, 128, 256, 512, 1024, 2048)[: 6 if name == "cnn14" else 4]
        size, n_convs = (5, 1) if name == "cnn6" else (3, 2)
        for i, n in enumerate(channels, start=1):
            for j in range(1, n_convs + 1):
                n_in = (1, *channels)[i - 1] if j == 1 else n
                shapes[f"conv_block{i}.conv{j}.weight"] = (n, n_in, size, size)
                norm(f"conv_block{i}.bn{j}", n)
        n_features = n_embedding = channels[-1]
    elif name == "mobilenetv1":
        n_features = n_embedding = 1024
        channels = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
        shapes["features.0.0.weight"] = (32, 1, 3, 3)
        norm("features.0.2", 32)
        for i in range(1, 14):
            shapes[f"features.{i}.0.weight"] = (channels[i - 1], 1, 3, 3)
            norm(f"features.{i}.2", channels[i - 1])
            shapes[f"features.{i}.4.weight"] = (channels[i], channels[i - 1], 1, 1)
            norm(f"features.{i}.5", channels[i])
    else:
        n_features, n_embedding = 1280, 1024
        shapes["features.0.0.weight"] = (32, 1, 3, 3)
        norm("features.0.2", 32)
        n_in = 32
        for i, (expansion, n, _) in enumerate(V2_BLOCKS, start=1):
            wide, at = n_in * expansion, 0
            if expansion > 1:
                shapes[f"features.{i}.conv.0.weight"] = (wide, n_in, 1, 1)
                norm(f"features.{i}.conv.1", wide)
                at = 3
            shapes[f"features.{i}.conv.{at}.weight"] = (wide, 1, 3, 3)
            norm(f"features.{i}.conv.{at + 2}", wide)
            shapes[f"features.{i}.conv.{at + 4}.weight"] = (n, wide, 1, 1)
            norm(f"features.{i}.conv.{at + 5}", n)
            n_in = n
        shapes["features.18.0.weight"] = (1280, 320, 1, 1)
        norm("features.18.1", 1280)
    shapes |= {"fc1.weight": (n_embedding, n_features), "fc1.bias": (n_embedding,)}
    return shapes | {"fc_audioset.weight": (527, n_embedding), "fc_audioset.bias": (527,)}


def published_state(name: str) -> State:
    """Random weights of the published names and shapes, such that features neither vanish nor explode."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for key, shape in published_shapes(name).items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith(("running_var", "weight")) and len(shape) == 1:
            state[key] = 0.5 + torch.rand(shape, generator=generator)
        else:
            n_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 4
            state[key] = torch.randn(shape, generator=generator) * (2 / n_in) ** 0.5
    return state


DEFINITIONS: dict[str, Callable[[torch.Tensor, State], tuple[torch.Tensor, torch.Tensor]]] = {
    "cnn6": lambda pictures, state: cnn(pictures, state, 4, 1),
    "cnn10": lambda pictures, state: cnn(pictures, state, 4, 2),
    "cnn14": lambda pictures, state: cnn(pictures, state, 6, 2),
    "mobilenetv1": mobilenet_v1,
    "mobilenetv2": mobilenet_v2,
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_panns_are_their_definition(name: str) -> None:
    state = published_state(name)
    network = models.build(name, 64, 527).eval()
    network.load_state_dict({**state, "mean": network.mean, "std": network.std}, strict=True)
    pictures = torch.randn(2, 64, 70, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        embedding, logits = DEFINITIONS[name](pictures, state)
        ours = network.embed(pictures)
        assert embedding.std() > 0.01
        torch.testing.assert_close(ours, embedding, rtol=1e-3, atol=1e-4 * float(embedding.abs().max()))
        torch.testing.assert_close(network.classify(ours), logits, rtol=1e-3, atol=1e-4 * float(logits.abs().max()))
