"""Networks, training, inference, checkpoints and metrics."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, confusion_matrix, precision_score, recall_score
from torch import nn

from audioclf import checkpoint, inference, metrics, models, storage, training, training_input
from audioclf.audio.frontend import FRONT_ENDS, get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.errors import CheckpointMismatchError, ConfigError, SchemaError, TrainingError
from audioclf.labels import Vocabulary
from audioclf.shards import Examples
from audioclf.torch_classifier import TorchClassifier
from audioclf.training_rows import MemoryRows

SPEC = get_front_end("logmel44k")
PAIR = Vocabulary(("dog", "rain"), multi_label=False)


def examples(n: int = 12, frames: int = 140) -> Examples:
    """Two classes that differ in which half of the bands is loud."""
    rng = np.random.default_rng(0)
    log_mel = rng.normal(-40, 3, (n, 128, frames))
    log_mel[::2, :64] += 20
    log_mel[1::2, 64:] += 20
    labels = [["dog"] if i % 2 == 0 else ["rain"] for i in range(n)]
    columns = {"labels": labels, "clip_id": [str(i) for i in range(n)], "segment_index": [0] * n}
    return Examples(SPEC, log_mel.astype(np.float16), np.full(n, frames), columns)


def trainer(data: Examples, network: models.Network, **how: float | int | str) -> training.Trainer:
    return training.Trainer(MemoryRows(data), PAIR, Training(**how), 0, network, SPEC, np.ones(len(data)))  # pyright: ignore[reportArgumentType]


def network_for(data: Examples, **how: float | int | str) -> models.Network:
    return training.build_network(Training(**how), MemoryRows(data), PAIR, 0, SPEC)  # pyright: ignore[reportArgumentType]


# --- the network


def test_sbcnn_has_as_many_parameters_as_published() -> None:
    network = models.build("sbcnn", n_mels=128, n_classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 241_434


def test_sbcnn_is_the_published_stack_of_layers() -> None:
    """Against the layers in the paper's order: convolution, ReLU, pooling."""
    torch.manual_seed(0)
    network = models.build("sbcnn", n_mels=128, n_classes=10).eval()
    reference = nn.Sequential(
        nn.Conv2d(1, 24, 5), nn.ReLU(), nn.MaxPool2d((2, 4)),
        nn.Conv2d(24, 48, 5), nn.ReLU(), nn.MaxPool2d((2, 4)),
        nn.Conv2d(48, 48, 5), nn.ReLU(), nn.Flatten(),
        nn.Linear(2400, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    reference.load_state_dict(dict(zip(reference.state_dict(), [*network.parameters()], strict=True)))
    patches = torch.randn(3, 128, 128)
    torch.testing.assert_close(network(patches), reference(patches[:, None]), atol=1e-5, rtol=1e-4)


def test_a_network_standardises_its_input() -> None:
    data = examples()
    network = network_for(data)
    standard = network.standardise(torch.from_numpy(data.log_mel).float())
    np.testing.assert_allclose(standard.mean(dim=(0, 1, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(standard.std(dim=(0, 1, 3), correction=0), 1, atol=1e-3)


def test_statistics_leave_padding_out() -> None:
    data = examples(4)
    padded = Examples(
        SPEC, np.concatenate([data.log_mel, np.full((4, 128, 60), -100, np.float16)], 2), data.valid_frames, {}
    )
    found, expected = (training_input.band_statistics(MemoryRows(one), SPEC) for one in (padded, data))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_unknown_networks_and_band_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="sbcnn"):
        models.build("cnn99", 128, 10)
    with pytest.raises(ConfigError, match="takes 128 mel bands"):
        models.build("sbcnn", 64, 10)


# --- training


def test_training_learns_what_can_be_learnt() -> None:
    data = examples()
    network = network_for(data)
    learner = trainer(data, network, epochs=6, batch_size=4)
    losses = [learner.epoch(epoch)[0] for epoch in range(6)]
    assert losses[-1] < 0.2 * losses[0]
    predicted = inference.predict(
        TorchClassifier(network.eval()), data.log_mel, data.valid_frames, False, 8
    ).probabilities
    assert (predicted.argmax(1) == np.arange(12) % 2).all()


def test_a_resumed_training_is_the_same_training() -> None:
    data = examples()
    network = network_for(data)
    learner = trainer(data, network, epochs=3, batch_size=4)
    learner.epoch(0)
    saved = copy.deepcopy(learner.state())
    undisturbed = [learner.epoch(1), learner.epoch(2)]
    resumed = trainer(data, network_for(data), epochs=3, batch_size=4)
    resumed.restore(saved)
    assert [resumed.epoch(1), resumed.epoch(2)] == undisturbed


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_loss_is_that_of_the_definition(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(4, 3)), np.eye(3)[[0, 2, 1, 1]]
    if multi_label:
        p = 1 / (1 + np.exp(-logits))
        expected = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(1).sum()
    else:
        expected = -np.log((np.exp(logits) * targets).sum(1) / np.exp(logits).sum(1)).sum()
    got = training._loss(torch.from_numpy(logits), torch.from_numpy(targets), multi_label, 0.0)
    assert float(got) == pytest.approx(expected)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    data = examples()
    network = network_for(data)
    with torch.no_grad():
        network.mean.fill_(float("nan"))
    with pytest.raises(TrainingError, match="learning-rate"):
        trainer(data, network, epochs=1).epoch(0)


def test_patches_lie_within_the_real_frames() -> None:
    log_mel = torch.arange(300.0).expand(2, 128, 300)  # a frame's value is its index
    valid = np.array([200, 50])
    for where in (0.0, 0.5, 0.999):
        drawn = training_input.cut_patches(log_mel, valid, np.array([where, where]), 128)
        first = drawn[:, 0, 0].tolist()
        assert first == [np.floor(where * 73), 0]  # 200 − 128 + 1 places; too short: from the start
        assert torch.equal(drawn[0, 5], torch.arange(first[0], first[0] + 128))


def test_a_segment_shorter_than_a_patch_is_continued_by_its_padding() -> None:
    log_mel = torch.tensor([[[1.0, 2.0, -100.0]]])
    patch = training_input.cut_patches(log_mel, np.array([1]), np.array([0.5]), 5)
    assert patch.tolist() == [[[1, 2, -100, -100, -100]]]


def test_patches_are_cut_on_the_device_of_the_pictures() -> None:
    """As of a GPU's, torch refuses to mix tensors of the device meta, which have no values, with a CPU's."""
    pictures = torch.empty(2, 3, 50, device="meta")
    patches = training_input.cut_patches(pictures, np.array([50, 1]), np.array([0.5, 0.5]), 5)
    assert (patches.device, patches.shape) == (pictures.device, (2, 3, 5))


# --- inference


def test_probabilities_are_the_mean_over_patches() -> None:
    data = examples(3)
    network = network_for(data).eval()
    valid = np.array([140, 132, 20])
    got = inference.predict(TorchClassifier(network), data.log_mel, valid, False, batch_size=2).probabilities
    for i, starts in enumerate(([0, 8], [0], [0])):  # every 8 frames while 128 fit
        patches = torch.from_numpy(np.stack([data.log_mel[i, :, s : s + 128] for s in starts])).float()
        with torch.inference_mode():
            expected = torch.softmax(network(patches), 1).mean(0)
        np.testing.assert_allclose(got[i], expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_and_neighbours_do_not_matter(batch_size: int) -> None:
    data = examples(5)
    classifier = TorchClassifier(network_for(data).eval())
    together = inference.predict(classifier, data.log_mel, data.valid_frames, False, batch_size)
    alone = [inference.predict(classifier, data.log_mel[[i]], data.valid_frames[[i]], False, 1) for i in range(5)]
    for values, of_each in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(values, np.concatenate(of_each), atol=1e-5)


def test_a_gpu_would_convolve_in_full_precision() -> None:
    data = examples(2)
    network = network_for(data).eval()
    seen: list[bool] = []
    network.get_submodule("conv1").register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    inference.predict(TorchClassifier(network), data.log_mel, data.valid_frames, False, 8)
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32 == before


# --- checkpoints


def saved(folder: Path) -> str:
    torch.manual_seed(1)
    network = models.build("sbcnn", 128, 2).eval()
    uri = storage.to_uri(str(folder / "checkpoint"))
    Checkpoint(network, "sbcnn", SPEC, PAIR, 1.0, {"epochs": 1}, {"loss": 0.5}).save(uri)
    return uri


def test_a_checkpoint_round_trips(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = models.build("sbcnn", 128, 2).eval()
    loaded = checkpoint.load(saved(tmp_path))
    patches = torch.randn(1, 128, 128)
    assert torch.equal(loaded.network(patches), network(patches))
    assert (loaded.vocabulary, loaded.front_end, loaded.segment_s) == (PAIR, SPEC, 1.0)
    assert checkpoint.find(str(tmp_path)) == checkpoint.find(str(tmp_path / "checkpoint"))


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    uri = saved(tmp_path)
    weights = tmp_path / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(SchemaError, match=r"model\.safetensors: can't be read"):
        checkpoint.load(uri)
    torch.save({"a": 1}, weights)  # a pickle
    with pytest.raises(SchemaError, match="can't be read"):
        checkpoint.load(uri)
    with pytest.raises(ConfigError, match=r"train one with jobs/train\.py"):
        checkpoint.find(str(tmp_path / "absent"))


def test_another_front_end_is_named_on_both_sides(tmp_path: Path) -> None:
    import dataclasses

    other = dataclasses.replace(FRONT_ENDS["logmel44k"], hop_length=512)
    with pytest.raises(CheckpointMismatchError, match="hop_length 1024 against 512"):
        checkpoint.load(saved(tmp_path)).require_front_end(other, "the shards")


# --- labels and metrics


def test_a_vocabulary_is_the_sorted_classes() -> None:
    assert Vocabulary.of([["b"], ["a"], ["b"]]) == Vocabulary(("a", "b"), multi_label=False)
    assert Vocabulary.of([["b", "a"], []]).multi_label
    np.testing.assert_array_equal(PAIR.targets([["rain"], [], ["dog", "rain"]]), [[0, 1], [0, 0], [1, 1]])
    with pytest.raises(SchemaError, match="two classes"):
        Vocabulary.of([["a"], ["a"]])
    with pytest.raises(CheckpointMismatchError, match="'wind' is not in the vocabulary"):
        PAIR.targets([["wind"]])


def test_metrics_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 60)
    probabilities = rng.dirichlet(np.ones(4), 60) + 0.3 * np.eye(4)[true]
    guessed = probabilities.argmax(1)
    described = metrics.describe(probabilities, np.eye(4)[true], ("a", "b", "c", "d"))
    assert described["accuracy"] == (true == guessed).mean()
    assert described["mean_average_precision"] == pytest.approx(
        average_precision_score(np.eye(4)[true], probabilities, average="macro")
    )
    for c, name in enumerate("abcd"):
        of_class = described["per_class"][name]
        assert of_class["recall"] == pytest.approx(recall_score(true == c, guessed == c))
        assert of_class["precision"] == pytest.approx(precision_score(true == c, guessed == c))
    confusion = np.array(described["confusion"])
    assert confusion.sum() == 60
    assert np.trace(confusion) == (true == guessed).sum()


def test_a_class_without_clips_does_not_count() -> None:
    described = metrics.describe(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[1, 0], [1, 0]]), ("a", "b"))
    assert described["per_class"]["b"]["average_precision"] is None
    assert described["mean_average_precision"] == 1.0


def test_the_interval_is_over_sources() -> None:
    """100 clips of one source are one observation: the interval spans what its resampling gives."""
    hits = np.repeat([1.0, 0.0], 50)
    assert metrics.mean_ci95(hits, ["s"] * 100) == [0.5, 0.5]
    low, high = metrics.mean_ci95(hits, [str(i) for i in range(100)])
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.03)  # a binomial's
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.03)


def test_figures_of_several_networks_are_means_and_added_confusions() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(4)[rng.integers(0, 3, 60)]  # no clip has the last class
    probabilities = rng.dirichlet(np.ones(4), (3, 60))
    together = metrics.mean_of([metrics.describe(one, targets, tuple("abcd")) for one in probabilities])
    guessed, true = probabilities.argmax(2), targets.argmax(1)
    assert together["accuracy"] == pytest.approx((guessed == true).mean())
    assert together["clips"] == 60
    assert np.array(together["confusion"]).tolist() == confusion_matrix(
        np.tile(true, 3), guessed.ravel(), labels=range(4)
    ).tolist()  # fmt: skip
    for c, name in enumerate("abc"):
        of_class = together["per_class"][name]
        assert of_class["recall"] == pytest.approx((guessed[:, true == c] == c).mean())
        assert of_class["clips"] == (true == c).sum()
        precisions = [average_precision_score(targets[:, c], one[:, c]) for one in probabilities]
        assert of_class["average_precision"] == pytest.approx(np.mean(precisions))
    assert together["per_class"]["d"]["average_precision"] is None
