"""What several training workers do together, which rows an epoch shows, schedules, seeds."""

import copy
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from audioclf import inference, models, storage, training, training_input
from audioclf.audio.frontend import get_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.errors import CheckpointMismatchError
from audioclf.labels import Vocabulary
from audioclf.row_index import read_index
from audioclf.shard_writer import ShardWriter
from audioclf.shards import Examples
from audioclf.torch_classifier import TorchClassifier
from audioclf.training_rows import MemoryRows, Share, StreamedRows

SPEC = get_front_end("logmel44k")
TRIO = Vocabulary(("a", "b", "c"), multi_label=False)


def examples(n: int, labels: list[list[str]] | None = None) -> Examples:
    log_mel = np.random.default_rng(0).normal(-40, 10, (n, 128, 130)).astype(np.float16)
    columns = {
        "labels": labels or [["abc"[i % 3]] for i in range(n)],
        "clip_id": [str(i) for i in range(n)],
        "segment_index": [0] * n,
    }
    return Examples(SPEC, log_mel, np.full(n, 130), columns)


def test_amp_is_left_out_where_it_would_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(amp: bool, capable: bool) -> list[float]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": capable})
        data, how = examples(12), Training(model="sbcnn", epochs=2, batch_size=4, dropout=0.0, amp=amp)
        network = training.build_network(how, MemoryRows(data), TRIO, 0, SPEC)
        trainer = trainer_of(data, TRIO, how, 0, network)
        return [trainer.epoch(epoch)[0] for epoch in range(2)]

    exact = losses(amp=False, capable=True)
    assert losses(amp=True, capable=False) == exact
    assert losses(amp=True, capable=True) != exact


def with_copies(clips: int, segments: int, rows: int) -> Examples:
    """So many rows of each segment of each clip, in no order; their pictures are not looked at."""
    keys = [(str(clip), segment) for clip in range(clips) for segment in range(segments) for _ in range(rows)]
    keys = [keys[i] for i in np.random.default_rng(1).permutation(len(keys))]
    columns = {
        "labels": [["abc"[int(clip) % 3]] for clip, _ in keys],
        "clip_id": [clip for clip, _ in keys],
        "segment_index": [segment for _, segment in keys],
    }
    return Examples(SPEC, np.zeros((len(keys), 128, 1), np.float16), np.ones(len(keys), np.int32), columns)


def trainer_of(
    data: Examples,
    vocabulary: Vocabulary,
    how: Training,
    seed: int,
    network: models.Network,
    share: Share | None = None,
    weights: np.ndarray | None = None,
) -> training.Trainer:
    weights = np.ones(len(data)) if weights is None else weights
    return training.Trainer(MemoryRows(data), vocabulary, how, seed, network, SPEC, weights, share)


def network_of(how: Training, data: Examples, vocabulary: Vocabulary = TRIO, seed: int = 0) -> models.Network:
    return training.build_network(how, MemoryRows(data), vocabulary, seed, SPEC)


Step = list[tuple[int, float]]
"""Rows of a step, and where their patches begin."""


def shown(
    monkeypatch: pytest.MonkeyPatch,
    data: Examples,
    epochs: range,
    share: Share | None = None,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> list[list[Step]]:
    """The steps of each epoch of a new trainer, which does not train."""
    steps: list[Step] = []

    def note(
        _: training.Trainer, rows: np.ndarray, pictures: np.ndarray, where: np.ndarray, batch_size: int
    ) -> torch.Tensor:
        steps.append(list(zip(rows.tolist(), where.tolist(), strict=True)))
        assert ((where >= 0) & (where < 1)).all()
        np.testing.assert_array_equal(pictures, data.log_mel[rows])
        return torch.zeros(2)

    monkeypatch.setattr(training.Trainer, "_step", note)
    how = Training(epochs=9, batch_size=4)
    trainer = trainer_of(data, TRIO, how, seed, models.build("sbcnn", 128, 3), share, weights)
    found: list[list[Step]] = []
    for epoch in epochs:
        steps = []
        trainer.epoch(epoch)
        assert len(steps) == math.ceil(trainer.n_segments / how.batch_size)
        found.append(steps)
    return found


def keys_of(data: Examples) -> list[tuple[str, int]]:
    return list(zip(data.columns["clip_id"], data.columns["segment_index"], strict=True))


def gradients(share: Share, multi_label: bool) -> list[torch.Tensor]:
    """Of the one step of an epoch; no dropout, since workers draw their own."""
    labels = [["a", "b"], ["c"], [], ["b"], ["a"], ["c"]] if multi_label else None
    data, how = examples(6, labels), Training(epochs=1, batch_size=6, dropout=0.0, optimizer="sgd", l2=0.1)
    vocabulary = Vocabulary(TRIO.names, multi_label)
    network = network_of(how, data, vocabulary)
    trainer_of(data, vocabulary, how, 0, network, share).epoch(0)
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(("workers", "multi_label"), [(2, False), (4, True)])
def test_the_mean_of_the_workers_gradients_is_that_of_one_worker(workers: int, multi_label: bool) -> None:
    alone = gradients(Share(), multi_label)
    shares = [gradients(Share(rank, workers), multi_label) for rank in range(workers)]
    for i, expected in enumerate(alone):
        mean = torch.stack([share[i] for share in shares]).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-3, atol=1e-5)


def test_the_penalty_is_on_the_dense_layers_weights_alone() -> None:
    network = models.build("sbcnn", 128, 3)
    named = {id(p): name for name, p in network.named_parameters()}
    assert sorted(named[id(weight)] for weight in network.dense_weights()) == ["dense1.weight", "dense2.weight"]


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
    network = network_of(how, data, TRIO)
    learner = trainer_of(data, TRIO, how, 0, network)
    rates: list[float] = []
    optimizer = learner._optimizer
    monkeypatch.setattr(optimizer, "step", lambda: rates.append(optimizer.param_groups[0]["lr"]))
    for epoch in range(2):
        learner.epoch(epoch)
    assert rates == pytest.approx(expected)


# --- which rows an epoch shows


@pytest.mark.parametrize("workers", [2, 3])
def test_the_workers_shares_make_up_each_step_of_one_worker(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, weights = with_copies(5, 3, 4), np.random.default_rng(2).random(60)
    alone = shown(monkeypatch, data, range(2), weights=weights)
    shares = [shown(monkeypatch, data, range(2), Share(r, workers), weights) for r in range(workers)]
    for epoch in range(2):
        for step, expected in enumerate(alone[epoch]):
            together = [pair for share in shares for pair in share[epoch][step]]
            assert Counter(together) == Counter(expected)


def test_an_epoch_shows_each_segment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_copies(5, 3, 4)
    for steps in shown(monkeypatch, data, range(3)):
        assert sorted(keys_of(data)[row] for step in steps for row, _ in step) == sorted(set(keys_of(data)))


def test_copies_make_no_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [
        [[len(step) for step in steps] for steps in shown(monkeypatch, with_copies(5, 3, rows), range(2))]
        for rows in (1, 4)
    ]
    assert sizes[0] == sizes[1] == [[4, 4, 4, 3]] * 2  # 15 segments, 4 a step


def test_one_row_a_segment_comes_in_the_order_of_the_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch, steps in enumerate(shown(monkeypatch, examples(11), range(2), seed=7)):
        rng = np.random.default_rng([7, epoch])
        order, where = rng.permutation(11), rng.random(11)
        assert [pair for step in steps for pair in step] == list(zip(order, where, strict=True))


def test_a_resumed_epoch_shows_what_it_would_have_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    data, weights = with_copies(5, 3, 4), np.random.default_rng(2).random(60)
    uninterrupted = shown(monkeypatch, data, range(4), weights=weights)
    torch.rand(5)  # whatever the process drew before
    assert shown(monkeypatch, data, range(2, 4), weights=weights) == uninterrupted[2:]
    assert uninterrupted[2] != uninterrupted[3]
    assert shown(monkeypatch, data, range(2, 3), weights=weights, seed=1) != uninterrupted[2:3]


def test_rows_are_drawn_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of the odds 1:3, 1:½:¼:¼ and 2:0:5 by turns, in rows that are in no order."""
    odds = [[1.0, 3.0], [1.0, 0.5, 0.25, 0.25], [2.0, 0.0, 5.0]]
    rows = [(str(clip), weight, kind) for clip in range(300) for kind in [clip % 3] for weight in odds[kind]]
    rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    columns = {"clip_id": [row[0] for row in rows], "segment_index": [0] * len(rows), "labels": [["a"]] * len(rows)}
    data = Examples(SPEC, np.zeros((len(rows), 128, 1), np.float16), np.ones(len(rows), np.int32), columns)
    epochs = shown(monkeypatch, data, range(40), weights=np.array([row[1] for row in rows]))
    drawn = [row for steps in epochs for step in steps for row, _ in step]
    counts = Counter((rows[row][2], rows[row][1]) for row in drawn)
    for kind, weights in enumerate(odds):
        each = sorted({*weights} - {0.0})
        counted = [counts[kind, weight] for weight in each]
        assert sum(counted) == 4000  # 100 segments in 40 epochs, and none of a weight of 0
        expected = [4000 * weights.count(weight) * weight / sum(weights) for weight in each]
        assert chisquare(counted, expected).pvalue > 1e-3
    # Rows alike in weight and segment are drawn alike: each of the ¼ on its own, in all 100 segments.
    quarters = [i for i, row in enumerate(rows) if row[1] == 0.25]
    times = Counter(drawn)
    assert chisquare([times[i] for i in quarters]).pvalue > 1e-3


def test_the_rows_of_two_segments_are_drawn_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments of the odds 1:1: in 400 epochs, each of the four pairs about 100 times."""
    data = with_copies(1, 2, 2)
    epochs = shown(monkeypatch, data, range(400))
    pairs = Counter(tuple(sorted(row for step in steps for row, _ in step)) for steps in epochs)
    assert len(pairs) == 4
    assert chisquare(list(pairs.values())).pvalue > 1e-3


def test_a_segment_without_any_weight_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_copies(5, 3, 2)
    weights = np.array([0.0 if key == ("3", 1) else 1.0 for key in keys_of(data)])
    for steps in shown(monkeypatch, data, range(3), weights=weights):
        assert sorted(keys_of(data)[row] for step in steps for row, _ in step) == sorted({*keys_of(data)} - {("3", 1)})


# --- the rest


def test_an_epoch_is_a_loop_written_out_in_plain_torch() -> None:
    """With no change to patches asked for: the same weights bit by bit after two steps, dropout included."""
    how, data = Training(epochs=1, batch_size=3, schedule="constant", l2=0.0), examples(6)
    network = network_of(how, data, TRIO)
    reference = copy.deepcopy(network)
    loss_sum, hits = trainer_of(data, TRIO, how, 5, network).epoch(0)

    optimizer = torch.optim.Adam(reference.parameters(), lr=how.learning_rate)
    rng = np.random.default_rng([5, 0])
    order, where = rng.permutation(6), rng.random(6)
    reference.train()
    torch.manual_seed(int(np.random.SeedSequence((5, 0, 0)).generate_state(1)[0]))
    losses, right = [], 0
    for step in slice(3), slice(3, 6):
        rows = order[step]
        starts = [int(one * 3) for one in where[step]]  # 130 frames, 128 in a patch
        patches = np.stack([data.log_mel[row, :, at : at + 128] for row, at in zip(rows, starts, strict=True)])
        logits = reference(torch.from_numpy(patches).float())
        classes = torch.tensor([row % 3 for row in rows])
        loss = F.cross_entropy(logits, F.one_hot(classes, 3).float(), reduction="sum")
        optimizer.zero_grad()
        (loss / 3).backward()
        optimizer.step()
        losses.append(loss.item())
        right += int((logits.argmax(1) == classes).sum())
    assert (loss_sum, hits) == (sum(losses), right)
    for name, weight in reference.state_dict().items():
        assert torch.equal(network.state_dict()[name], weight), name


def test_pictures_may_be_read_only() -> None:
    """As those from an object store are; torch would warn, and warnings are errors here."""
    data = examples(3)
    data.log_mel.flags.writeable = False
    how = Training(epochs=1, batch_size=3)
    network = network_of(how, data, TRIO)
    torch.set_warn_always(True)  # not only the first time in a process
    try:
        trainer_of(data, TRIO, how, 0, network).epoch(0)
        inference.predict(TorchClassifier(network.eval()), data.log_mel, data.valid_frames, False, 8)
    finally:
        torch.set_warn_always(False)
    assert training_input.as_tensor(data.log_mel).data_ptr() == data.log_mel.ctypes.data  # no copy


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.rand(7)  # whatever was drawn before
        return network_of(Training(), examples(3), seed=seed).state_dict()["conv1.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_any_of_a_clips_labels_is_a_hit() -> None:
    """As in the accuracy of an evaluation."""
    data = examples(4, [["a", "b"]] * 4)
    vocabulary = Vocabulary(("a", "b", "c"), multi_label=True)
    how = Training(epochs=1, batch_size=4, dropout=0.0)
    network = network_of(how, data, vocabulary)
    with torch.no_grad():
        network.get_parameter("dense2.weight").zero_()
        network.get_parameter("dense2.bias").copy_(torch.tensor([0.0, 5.0, 0.0]))  # always b
    assert trainer_of(data, vocabulary, how, 0, network).epoch(0)[1] == 4


@pytest.mark.parametrize("model", ["sbcnn", "crnn8-texture"])
def test_streamed_rows_train_as_those_in_memory(tmp_path: Path, model: str) -> None:
    """In windows that hold all rows, with row groups of two, copies and weights: the same weights in the end."""
    data = examples(12)
    with (
        storage.create((tmp_path / "data" / "unit-0.parquet").as_uri()) as file,
        ShardWriter(file, SPEC, 129 * SPEC.hop_length, "", buffer_bytes=2 * 128 * 130 * 2) as writer,
    ):
        for i, picture in enumerate(data.log_mel):
            row = {
                "clip_id": str(i // 3), "uri": "", "segment_index": 0, "start_s": 0.0, "copy_index": i % 3,
                "transform_set": "ts" if i % 3 else "none", "transform_params": "{}", "valid_frames": 130,
                "labels": ["abc"[i // 3 % 3]], "fold": 1, "source_id": str(i // 3), "flags": [], "content_digest": "",
            }  # fmt: skip
            writer.add(row, picture.astype(np.float32))
        writer.finish({})
    index = read_index([str(tmp_path)], copies=True)
    how, weights = Training(model=model, epochs=2, batch_size=3, mixup_alpha=0.5), np.tile([1.0, 0.5, 2.0], 4)
    ends = []
    for rows in (MemoryRows(index.load()), StreamedRows(index, 1 << 30)):
        network = training.build_network(how, rows, TRIO, 0, SPEC)
        trainer = training.Trainer(rows, TRIO, how, 0, network, SPEC, weights)
        ends.append(([trainer.epoch(0), trainer.epoch(1)], trainer.trained().state_dict()))
    assert ends[0][0] == ends[1][0]
    for name, value in ends[0][1].items():  # statistics are summed in the order that rows are read in
        tolerance = 1e-3 if name.startswith("texture.") else 0.0
        torch.testing.assert_close(value, ends[1][1][name], atol=tolerance, rtol=tolerance)


def test_weights_to_start_from_keep_all_but_a_head_for_other_classes() -> None:
    data, how = examples(3), Training(init="x", dropout=0.0)
    start = Checkpoint(network_of(how, data, seed=5), "sbcnn", SPEC, TRIO, 3.0, {}, {})
    same = training.build_network(how, MemoryRows(data), TRIO, 0, SPEC, start).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in start.network.state_dict().items())
    other = training.build_network(how, MemoryRows(data), Vocabulary(("a", "b"), False), 0, SPEC, start)
    differing = {
        name
        for name, value in other.state_dict().items()
        if value.shape != same[name].shape or not torch.equal(value, same[name])
    }
    assert differing == {"dense2.weight", "dense2.bias"}
    assert other.n_classes == 2
    turned = Vocabulary(TRIO.names[::-1], TRIO.multi_label, mids=("/m/1", "/m/2", "/m/3"))
    of_turned = training.build_network(how, MemoryRows(data), turned, 0, SPEC, start)
    pictures = torch.from_numpy(data.pictures.astype(np.float32))
    torch.testing.assert_close(of_turned.eval()(pictures).flip(1), start.network.eval()(pictures), rtol=0, atol=0)
    with pytest.raises(CheckpointMismatchError, match="a sbcnn; it is to start a crnn"):
        training.build_network(replace(how, model="crnn"), MemoryRows(data), TRIO, 0, SPEC, start)
    with pytest.raises(CheckpointMismatchError, match="hop_length 1024 against 320"):
        training.build_network(how, MemoryRows(data), TRIO, 0, get_front_end("panns32k"), start)


def test_the_running_average_is_what_is_kept() -> None:
    data, how = examples(6), Training(epochs=1, batch_size=2, ema=0.5)
    network = network_of(how, data)
    learner = trainer_of(data, TRIO, how, 0, network)
    learner.epoch(0)
    kept = learner.trained()
    assert kept is not network
    assert not torch.equal(kept.get_parameter("dense2.weight"), network.get_parameter("dense2.weight"))
    resumed = trainer_of(data, TRIO, how, 0, network_of(how, data))
    resumed.restore(learner.state())
    assert torch.equal(resumed.trained().get_parameter("dense2.weight"), kept.get_parameter("dense2.weight"))


def test_what_all_layers_began_with_has_its_share_and_outlasts_a_restart() -> None:
    data = examples(6)
    how = Training(epochs=4, batch_size=2, dropout=0.0, freeze="head-first", unfreeze_epochs=2, start_share=0.25)
    learner = trainer_of(data, TRIO, how, 0, network_of(how, data))
    for epoch in range(2):
        learner.epoch(epoch)
    start = copy.deepcopy(learner.state()["network"])
    learner.epoch(2)
    resumed = trainer_of(data, TRIO, how, 0, network_of(how, data))
    resumed.restore(copy.deepcopy(learner.state()))
    for one in (learner, resumed):
        one.epoch(3)
        end = one.state()["network"]
        for name, value in one.trained().state_dict().items():
            assert torch.allclose(value, 0.25 * start[name] + 0.75 * end[name], atol=1e-6)
    assert not torch.equal(start["conv1.weight"], end["conv1.weight"])
    assert not torch.equal(network_of(how, data).state_dict()["dense2.weight"], start["dense2.weight"])


def test_label_smoothing_is_torchs_and_for_several_labels_half_way() -> None:
    logits, targets = torch.randn(4, 3), torch.eye(3)[[0, 1, 2, 0]]
    expected = F.cross_entropy(logits, targets.argmax(1), reduction="sum", label_smoothing=0.2)
    torch.testing.assert_close(training._loss(logits, targets, False, 0.2), expected)
    expected = F.binary_cross_entropy(torch.sigmoid(logits), 0.8 * targets + 0.1, reduction="sum") / 3
    torch.testing.assert_close(training._loss(logits, targets, True, 0.2), expected)
