"""The vote of texture statistics: against scikit-learn, and against the network without it."""

import copy
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from audioclf import models, optimisation, texture_vote, training
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.audio.pcm import get_any_front_end
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.models.crnn import TEXTURE_SHARE
from audioclf.models.texture import Texture
from audioclf.shards import Examples
from audioclf.training_rows import MemoryRows

SPEC = get_front_end("logmel32k")
HOW = Training(model="crnn8-texture")
TRIO = Vocabulary(("a", "b", "c"), multi_label=False)

pytestmark = pytest.mark.usefixtures("one_thread")


def examples(n: int = 30, labels: list[list[str]] | None = None) -> Examples:
    """Sounds of one spectrum; those of b and c come and go, at two tempos."""
    rng = np.random.default_rng(0)
    rhythms = np.stack([np.zeros(150), *(10 * np.sin(2 * np.pi * hz * np.arange(150) / 50) for hz in (3, 9))])
    pictures = rng.normal(-40, 5, (n, 64, 150)) + rng.uniform(0, 0.6, (n, 1, 1)) * rhythms[np.arange(n) % 3][:, None]
    columns = {
        "labels": labels or [["abc"[i % 3]] for i in range(n)],
        "clip_id": [str(i) for i in range(n)],
        "segment_index": [0] * n,
    }
    return Examples(SPEC, pictures.astype(np.float16), np.full(n, 150), columns)


def network_of(data: Examples, vocabulary: Vocabulary = TRIO, how: Training = HOW) -> models.Network:
    return training.build_network(how, MemoryRows(data), vocabulary, 0, SPEC)


def texture_of(network: models.Network) -> Texture:
    assert network.texture is not None
    return network.texture


def standardised(network: models.Network, pictures: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return texture_of(network)(network.standardise(torch.from_numpy(pictures.astype(np.float32)))[:, 0])


def test_the_vote_is_the_logistic_regression_of_scikit_learn() -> None:
    data = examples()
    network = network_of(data)
    found = standardised(network, data.pictures)
    theirs = LogisticRegression(C=1 / (2 * texture_vote.STRENGTH), max_iter=1000, tol=1e-8)
    theirs.fit(found.numpy(), np.arange(30) % 3)
    ours = texture_of(network).vote(found).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(found.numpy()), atol=2e-3)
    assert ours.max() > 0.9  # it has learned something


def test_of_several_labels_each_is_a_logistic_regression() -> None:
    labels = [[name for name, of in zip("abc", (2, 3, 5), strict=True) if i % of == 0] for i in range(30)]
    data, vocabulary = examples(labels=labels), Vocabulary(("a", "b", "c"), multi_label=True)
    network = network_of(data, vocabulary)
    found = standardised(network, data.pictures)
    ours = texture_of(network).vote(found).sigmoid().numpy()
    for i, name in enumerate("abc"):
        theirs = LogisticRegression(C=1 / (2 * texture_vote.STRENGTH), max_iter=1000, tol=1e-8)
        theirs.fit(found.numpy(), [name in of for of in labels])
        np.testing.assert_allclose(ours[:, i], theirs.predict_proba(found.numpy())[:, 1], atol=2e-3)


@pytest.mark.parametrize("speed", [1.0, 1.25])
def test_waveforms_are_heard_at_several_speeds(speed: float) -> None:
    pcm = get_any_front_end("pcm32k")
    sounds = np.random.default_rng(0).normal(scale=3000, size=(6, 1, 40_000)).astype(np.int16)
    columns = {"labels": [["abc"[i % 3]] for i in range(6)], "clip_id": list("012345"), "segment_index": [0] * 6}
    network = network_of(
        Examples(pcm, sounds, np.full(6, 40_000), columns), how=replace(HOW, speed=speed, frontend=SPEC.name)
    )
    statistics = []
    for factor in {1.0} if speed == 1 else (0.8, 0.8**0.5, 1.0, 1.25**0.5, 1.25):
        at = np.linspace(0, 39_999, round(40_000 / factor))
        played = np.stack([np.interp(at, np.arange(40_000), sound) for sound in sounds[:, 0] / 2**15])
        pictures = torch.from_numpy(np.stack([log_mel(sound.astype(np.float32), SPEC) for sound in played]))
        statistics.append(texture_of(network).statistics(network.standardise(pictures)[:, 0]))
    expected = torch.cat(statistics)  # between samples float32 here, float64 there: logarithms of little power differ
    torch.testing.assert_close(texture_of(network).mean, expected.mean(0), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(texture_of(network).std, expected.std(0, unbiased=False), atol=1e-2, rtol=1e-2)


def test_it_counts_in_evaluation_and_leaves_training_as_it_is() -> None:
    data = examples()
    network, plain = network_of(data), network_of(data, how=replace(HOW, model="crnn8"))
    batch = torch.from_numpy(data.pictures[:5].astype(np.float32))
    for one in (network, plain):
        one.train()
        torch.manual_seed(1)
        with torch.no_grad():
            one(batch)  # the batch statistics of both
    torch.manual_seed(2)
    learning = network(batch)
    torch.manual_seed(2)
    torch.testing.assert_close(learning, plain(batch))
    network.eval()
    plain.eval()
    with torch.inference_mode():
        vote = texture_of(network).vote(standardised(network, data.pictures[:5]))
        expected = (1 - TEXTURE_SHARE) * plain(batch) + TEXTURE_SHARE * vote
        torch.testing.assert_close(network(batch), expected)


def test_it_learns_anew_for_other_classes() -> None:
    data = examples()
    start = Checkpoint(network_of(data).eval(), "crnn8-texture", SPEC, TRIO, 3.0, {}, {})
    before = copy.deepcopy(texture_of(start.network))
    other = Vocabulary(("high", "low"), multi_label=False)
    labels = [["high"] if i % 3 == 2 else ["low"] for i in range(30)]
    network = training.build_network(replace(HOW, init="x"), MemoryRows(examples(labels=labels)), other, 0, SPEC, start)
    found = standardised(network, data.pictures)
    assert (texture_of(network).vote(found).argmax(1) == torch.tensor([int(i % 3 != 2) for i in range(30)])).all()
    assert torch.equal(texture_of(start.network).weight, before.weight)


def test_for_the_same_classes_it_learns_anew_too() -> None:
    data = examples()
    start = Checkpoint(network_of(data).eval(), "crnn8-texture", SPEC, TRIO, 3.0, {}, {})
    turned = Examples(SPEC, data.pictures[::-1].copy(), data.valid_frames, data.columns)
    network = training.build_network(replace(HOW, init="x"), MemoryRows(turned), TRIO, 0, SPEC, start)
    found = standardised(network, turned.pictures)
    assert (texture_of(network).vote(found).argmax(1) == torch.arange(30) % 3).all()


def test_of_very_many_segments_rare_classes_are_heard_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they come last, as folders do."""
    monkeypatch.setattr(texture_vote, "MOST_SEGMENTS", 24)
    by_class = np.concatenate([np.arange(0, 180, 3), np.arange(1, 181, 3), np.arange(2, 12, 3)])
    data = examples(180)
    columns = {name: [values[i] for i in by_class] for name, values in data.columns.items()}
    few = Examples(SPEC, data.pictures[by_class], data.valid_frames[by_class], columns)
    network = network_of(few)
    votes = texture_of(network).vote(standardised(network, few.pictures)).argmax(1)
    assert (votes[-4:] == 2).float().mean() >= 0.75
    assert (votes[:120] == torch.arange(2).repeat_interleave(60)).float().mean() > 0.7


def test_more_copies_of_one_class_weigh_no_more() -> None:
    data = examples()
    rows = np.array([i for i in range(30) for _ in range(9 if i % 3 == 0 else 1)])
    columns = {name: [values[i] for i in rows] for name, values in data.columns.items()}
    copies = Examples(SPEC, data.pictures[rows], data.valid_frames[rows], columns)
    plain, more = network_of(data), network_of(copies)
    for network in (plain, more):  # of clips to learn from, the mean vote is how often each class comes
        votes = texture_of(network).vote(standardised(network, data.pictures)).softmax(1)
        np.testing.assert_allclose(votes.mean(0), 1 / 3, atol=0.02)


def test_rows_of_weight_0_are_not_heard() -> None:
    data = examples()
    spoiled = data.pictures.copy()
    spoiled[1::2] = np.nan
    columns = {
        **data.columns,
        "clip_id": [str(i // 2) for i in range(30)],
        "labels": [["abc"[i // 2 % 3]] for i in range(30)],
    }
    rows, weights = MemoryRows(Examples(SPEC, spoiled, data.valid_frames, columns)), np.tile([1.0, 0.0], 15)
    network = network_of(data)
    texture_vote.fit(network, rows, weights, TRIO, HOW, SPEC)
    assert texture_of(network).weight.isfinite().all()
    assert texture_of(network).weight.abs().max() > 0


def test_a_running_average_of_weights_leaves_it_as_it_is() -> None:
    data = examples()
    network = network_of(data).train()
    average = optimisation.averaged(network, 0.9)
    for _ in range(3):
        average.update_parameters(network)
    averaged = cast(models.Network, average.module)
    assert torch.equal(standardised(averaged, data.pictures), standardised(network, data.pictures))
