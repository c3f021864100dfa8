"""Training, cross-validation and evaluation on a Ray cluster."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score

from audioclf import checkpoint, shards, storage
from audioclf.config import CrossvalConfig, EvaluateConfig, ExtractConfig, TrainConfig
from audioclf.errors import CheckpointMismatchError, ConfigError
from audioclf.pipelines import crossval, evaluate, extract, run_trainings, train
from tests import fault_proxy
from tests.buckets import new_bucket
from tests.fault_proxy import FaultProxy

EPOCHS = 3


def test_training_leaves_a_checkpoint_that_knows_its_front_end_and_classes(trained: str, extracted: str) -> None:
    loaded = checkpoint.load(checkpoint.find(trained))
    assert loaded.vocabulary.names == ("high", "low")
    assert loaded.front_end.name == "logmel44k"
    in_fold_2 = shards.load([extracted], copies=False, fold=2)
    assert loaded.training["clips"] == len(in_fold_2)
    epochs = json.loads(Path(trained, "metrics.json").read_text())["epochs"]
    assert [one["epoch"] for one in epochs] == [1, 2, 3]
    assert not Path(trained, "training_state").exists()


def test_two_workers_see_the_loss_of_one_and_may_be_all_there_is_room_for(
    extracted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without dropout a step of two workers is the step of one: gradients are those of the whole batch.

    Four are asked for where two fit: without --min-workers that training would wait for ever.
    """
    asked: dict[str, dict[str, Any]] = {"one": {"num_workers": 1}, "two": {"num_workers": 4, "min_workers": 1}}
    losses = {}
    for name, flags in asked.items():
        output = str(tmp_path / name)
        with caplog.at_level("INFO", "audioclf"):
            train.run(TrainConfig(shards=(extracted,), output=output, epochs=2, batch_size=5, dropout=0.0, **flags))
        losses[name] = [one["loss"] for one in json.loads(Path(output, "metrics.json").read_text())["epochs"]]
    np.testing.assert_allclose(losses["one"], losses["two"], rtol=2e-3)  # float32 sums in another order, over 10 steps
    assert "2 of 4 workers" in caplog.text


@pytest.mark.heavy
def test_two_workers_fit_the_vote_that_one_fits(extracted: str, tmp_path: Path) -> None:
    votes = []
    for workers in (0, 2):
        output = str(tmp_path / str(workers))
        how = TrainConfig(shards=(extracted,), output=output, model="crnn8-texture", epochs=1, num_workers=workers)
        assert train.run(how) == "ok"
        state = checkpoint.load(checkpoint.find(output)).network.state_dict()
        votes.append({name: value for name, value in state.items() if name.startswith("texture.")})
    assert votes[0].keys() == votes[1].keys()
    assert votes[0]["texture.weight"].any()
    for name, value in votes[0].items():
        torch.testing.assert_close(votes[1][name], value, rtol=0, atol=1e-6, msg=name)


def test_evaluation_measures_the_held_out_fold_alone(trained: str, extracted: str, tmp_path: Path) -> None:
    config = EvaluateConfig(shards=(extracted,), checkpoint=trained, output=str(tmp_path / "run"), test_fold=1)
    assert evaluate.run(config) == "ok"
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pylist()
    assert {row["fold"] for row in rows} == {1}
    _check_metrics(json.loads((tmp_path / "run" / "metrics.json").read_text()), rows)


def test_measuring_what_a_network_learned_from_is_told(
    trained: str, extracted: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was trained without fold 1."""
    for fold, warned in ((1, False), (2, True)):
        caplog.clear()
        evaluate.run(EvaluateConfig((extracted,), trained, str(tmp_path / str(fold)), test_fold=fold, dry_run=True))
        assert ("the network was trained on clips that it is measured on" in caplog.text) == warned


def test_crossval_predicts_every_clip_by_a_network_that_never_saw_it(crossvalidated: str, hostile_shards: str) -> None:
    rows = pq.read_table(Path(crossvalidated, "predictions.parquet")).to_pylist()
    measured = json.loads(Path(crossvalidated, "metrics.json").read_text())
    assert len(rows) == 12, "copies are not predicted"
    _check_metrics(measured, rows)
    assert set(measured["accuracy_per_fold"]) == {"1", "2"}
    of_fold = {row["clip_id"]: row["fold"] for row in rows}
    for fold in (1, 2):
        uri = storage.to_uri(f"{crossvalidated}/trainings/seed-0-fold-{fold}")
        assert checkpoint.load(checkpoint.find(uri)).training["test_fold"] == fold
        alone = evaluate.predict((storage.to_uri(hostile_shards),), {fold: f"{uri}/checkpoint"}, 16, 1)
        assert {clip.clip_id for clip in alone} == {clip_id for clip_id, f in of_fold.items() if f == fold}
        by_id = {row["clip_id"]: row["probabilities"] for row in rows}
        for clip in alone:
            np.testing.assert_allclose(clip.probabilities, by_id[clip.clip_id], atol=1e-5)


def _check_metrics(measured: dict, rows: list[dict]) -> None:
    """Against scikit-learn, from the predictions written beside."""
    classes = measured["classes"]
    true = np.array([classes.index(row["labels"][0]) for row in rows])
    probabilities = np.array([row["probabilities"] for row in rows])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert measured["accuracy"] == pytest.approx(accuracy_score(true, probabilities.argmax(1)))
    onehot = np.eye(len(classes))[true]
    assert measured["mean_average_precision"] == pytest.approx(
        average_precision_score(onehot, probabilities, average="macro")
    )
    low, high = measured["accuracy_ci95"]
    assert 0 <= low <= measured["accuracy"] <= high <= 1


@pytest.mark.heavy
def test_a_network_of_waveforms_is_one_of_their_pictures(
    manifest_file: str, extracted: str, trained: str, tmp_path: Path
) -> None:
    """Trained on shards of samples, measured on those and on shards of pictures: the same but for 16 bits."""
    waves, output = str(tmp_path / "waves"), str(tmp_path / "run")
    assert extract.run(ExtractConfig(manifest=manifest_file, output=waves, frontend="pcm44k")) == "ok"
    config = TrainConfig(
        shards=(waves,),
        output=output,
        test_fold=1,
        epochs=EPOCHS,
        batch_size=4,
        num_workers=0,
        crop_s=3.2,
        speed=1.1,
        roll_s=0.1,
        gain_db=3.0,
        wave_mixup_alpha=0.5,
    )
    assert train.run(config) == "ok"
    assert checkpoint.load(checkpoint.find(output)).front_end.name == "logmel44k"
    found = []
    for i, shards_uri in enumerate((waves, extracted)):
        measured = str(tmp_path / f"evaluate-{i}")
        evaluate.run(EvaluateConfig(shards=(shards_uri,), checkpoint=output, output=measured, test_fold=1))
        rows = pq.read_table(Path(measured, "predictions.parquet")).to_pylist()
        found.append({row["clip_id"]: row["probabilities"] for row in rows})
    assert len(found[0]) == len(found[1]) > 10
    for clip_id, probabilities in found[0].items():
        np.testing.assert_allclose(probabilities, found[1][clip_id], atol=0.02)
    with pytest.raises(ConfigError, match="leave it out"):
        train.run(TrainConfig(shards=(extracted,), output=str(tmp_path / "x"), frontend="panns32k"))
    with pytest.raises(ConfigError, match="extract pcm32k or pcm44k"):
        train.run(TrainConfig(shards=(extracted,), output=str(tmp_path / "x"), mel_jitter=True))


def test_a_training_goes_on_from_a_checkpoint_of_the_same_front_end(
    trained: str, extracted: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    config = TrainConfig(
        shards=(extracted,), output=output, init=trained, freeze="backbone", epochs=1, batch_size=4, num_workers=0
    )
    assert train.run(config) == "ok"
    before, after = (checkpoint.load(checkpoint.find(run)).network.state_dict() for run in (trained, output))
    changed = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert changed == {"dense2.weight", "dense2.bias"}
    assert (Path(output) / "events.out.tfevents.training").stat().st_size > 0
    other = TrainConfig(shards=(extracted,), output=str(tmp_path / "x"), init=trained, model="crnn")
    with pytest.raises(CheckpointMismatchError, match="a sbcnn; it is to start a crnn"):
        train.run(other)


def test_weights_that_have_learned_from_the_clips_to_be_measured_are_refused(
    trained: str, extracted: str, tmp_path: Path
) -> None:
    """They were trained without fold 1."""
    output = str(tmp_path / "x")
    with pytest.raises(ConfigError, match=r"--init: .* the same manifest, fold 2 among them"):
        train.run(TrainConfig(shards=(extracted,), output=output, init=trained, test_fold=2, dry_run=True))
    with pytest.raises(ConfigError, match=r"--init: .* the same manifest, fold 2 among them"):
        crossval.run(CrossvalConfig(shards=(extracted,), output=output, init=trained, dry_run=True))
    for test_fold in (1, None):
        assert (
            train.run(TrainConfig(shards=(extracted,), output=output, init=trained, test_fold=test_fold, dry_run=True))
            == "ok"
        )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"num_workers": 3}, "--num-workers: 3 training workers take a CPU each, and this machine has 2: give fewer"),
        ({"num_workers": 9, "min_workers": 3}, "--min-workers: 3 training workers take a CPU each"),
        ({"use_gpu": True}, "--use-gpu: 1 training workers take a GPU each, and this machine has 0: drop it"),
    ],
)
def test_what_ray_would_wait_for_without_end_is_refused(
    extracted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(run_trainings.cluster, "may_grow", lambda: False)
    monkeypatch.setattr(run_trainings.cluster, "gpus", lambda: 0)
    with pytest.raises(ConfigError, match=says):
        train.run(TrainConfig(shards=(extracted,), output=str(tmp_path / "x"), **flags))


def test_a_fold_that_does_not_exist_is_refused(extracted: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the shards have the folds 1, 2"):
        train.run(TrainConfig(shards=(extracted,), output=str(tmp_path), test_fold=7))


def test_the_store_of_a_trainings_state_is_waited_for_wherever_it_is_used(s3_server: str) -> None:
    """Arrow's own S3 file system tries three times, and Ray Train's controller gets it pickled."""
    bucket = new_bucket()
    with FaultProxy(s3_server) as proxy:
        options = {"scheme": "http", "endpoint_override": proxy.endpoint.removeprefix("http://"), "region": "us-east-1"}
        travelled = pickle.loads(pickle.dumps(run_trainings._PatientS3(options)))
        proxy.faults = fault_proxy.first(4, fault_proxy.INTERNAL_ERROR)
        assert travelled.get_file_info(bucket).type == pyarrow.fs.FileType.Directory
        assert proxy.requests > 4
