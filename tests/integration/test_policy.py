"""Policies: learned from the training folds alone, resumed, kept to; and training that never sees its test fold."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audioclf import checkpoint, policy, shards
from audioclf.config import CrossvalConfig, ExtractConfig, ManifestConfig, PolicyConfig, TrainConfig, Training
from audioclf.errors import ConfigError
from audioclf.pipelines import crossval, extract, manifest, train
from audioclf.pipelines import policy as learn_policy

TEST_FOLD = 1
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 8}


@pytest.fixture(scope="session")
def copies(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An extraction over three folds, with two copies of two sets."""
    folder = tmp_path_factory.mktemp("copies")
    table = str(folder / "m.parquet")
    manifest.run(ManifestConfig(input=str(clips), output=table, folds=3))
    config = ExtractConfig(manifest=table, output=str(folder / "run"), augment=("gain", "shift"), copies=2)
    assert extract.run(config) == "ok"
    return config.output


@pytest.fixture(scope="session")
def spoilt(copies: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, but in every row of the test fold the picture is noise and the label the wrong one."""
    run = tmp_path_factory.mktemp("spoilt") / "run"
    shutil.copytree(copies, run)
    rng = np.random.default_rng(0)
    for file in (run / "data").iterdir():
        table = pq.read_table(file)
        columns = table.to_pydict()
        for i, fold in enumerate(columns["fold"]):
            if fold == TEST_FOLD:
                columns["log_mel"][i] = rng.normal(size=len(columns["log_mel"][i]) // 2).astype("<f2").tobytes()
                columns["labels"][i] = [{"high": "low", "low": "high"}[columns["labels"][i][0]]]
        pq.write_table(pa.table(columns, schema=table.schema), file)
    return str(run)


def test_a_network_does_not_depend_on_a_row_of_its_test_fold(copies: str, spoilt: str, tmp_path: Path) -> None:
    digests = []
    for name, run in (("copies", copies), ("spoilt", spoilt)):
        output = str(tmp_path / name)
        train.run(TrainConfig(shards=(run,), output=output, test_fold=TEST_FOLD, num_workers=0, **QUICK))
        digests.append(checkpoint.load(checkpoint.find(output)).weights_digest())
    assert digests[0] == digests[1]


@pytest.mark.heavy
def test_a_learned_policy_does_not_depend_on_a_row_of_its_test_fold(copies: str, spoilt: str, tmp_path: Path) -> None:
    learned = []
    for name, run in (("copies", copies), ("spoilt", spoilt)):
        output = tmp_path / name / "policy.yaml"
        config = PolicyConfig(shards=(run,), test_fold=TEST_FOLD, output=str(output), repetitions=1, **QUICK)
        assert learn_policy.run(config) == "ok"
        learned.append(output.with_suffix(".csv").read_text())
    assert learned[0] == learned[1]
    rows = list(csv.DictReader(learned[0].splitlines()))
    assert [(row["class"], row["transform_set"]) for row in rows] == [
        (label, name) for label in ("high", "low", "*") for name in ("gain", "shift")
    ]
    tested = shards.load([copies], copies=False, fold=TEST_FOLD).columns["clip_id"]
    everyone = set(shards.load([copies], copies=False).columns["clip_id"])
    assert int(rows[-1]["clips"]) == len(everyone) - len(tested)
    files = sorted((tmp_path / "copies" / "policy.learned" / "trainings").iterdir())
    assert len(files) == 2 * 4  # two validation folds, a design of four trainings
    assert all(name.name.startswith(("without-1-2-", "without-1-3-")) for name in files)
    measured = {clip[0] for file in files for clip in json.loads(file.read_text())["clips"]}
    assert measured == everyone - set(tested)


def test_a_policy_is_learned_on_from_where_it_stopped(copies: str, tmp_path: Path) -> None:
    config = PolicyConfig(shards=(copies,), test_fold=2, output=str(tmp_path / "p.yaml"), repetitions=1, **QUICK)
    learn_policy.run(config)
    first = (tmp_path / "p.csv").read_bytes()
    files = sorted((tmp_path / "p.learned" / "trainings").iterdir())
    times = {file: file.stat().st_mtime_ns for file in files}
    files[3].unlink()
    (tmp_path / "p.yaml").unlink()
    learn_policy.run(config)
    assert [file for file in files if file.stat().st_mtime_ns != times[file]] == [files[3]]
    assert (tmp_path / "p.csv").read_bytes() == first
    policy.read(str(tmp_path / "p.yaml"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("n_folds", [3, 4, 5, 10])
@pytest.mark.parametrize("n_validation", [None, 2, 4])
def test_each_fold_is_validated_on_as_many_others(
    n_folds: int, n_validation: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = range(1, n_folds + 1)
    rows = {
        "labels": [["dog"], ["rain"], *[["dog"]] * (n_folds - 2)],
        "fold": [*folds],
        "transform_set": ["gain"] * n_folds,
    }
    monkeypatch.setattr(shards, "read_columns", lambda *_: pa.table(rows))
    learning = learn_policy.plan(("run",), Training(), tuple(folds), 1, 0, n_validation)
    n_runs = len(learning.designs[0].policies)
    expected = min(n_validation or n_folds - 1, n_folds - 1)
    for fold in folds:
        others = [{*one.without} - {fold} for one in learning.trainings if fold in one.without]
        assert len(others) == expected * n_runs
        assert len(set.union(*others)) == expected
    assert len({one.name for one in learning.trainings}) == len(learning.trainings) == n_folds * expected // 2 * n_runs


@pytest.mark.parametrize("n", [0, 1, 3])
def test_an_odd_number_of_validation_folds_is_refused(n: int) -> None:
    with pytest.raises(ConfigError, match=f"--validation-folds {n}: even"):
        PolicyConfig(shards=("run",), test_fold=1, output="p.yaml", validation_folds=n)


@pytest.mark.heavy
def test_crossval_learns_a_policy_for_every_fold_and_compares(copies: str, tmp_path: Path) -> None:
    plain = CrossvalConfig(shards=(copies,), output=str(tmp_path / "plain"), **QUICK)
    crossval.run(plain)
    config = CrossvalConfig(
        shards=(copies,), output=str(tmp_path / "learned"), policy="learn", policy_repetitions=1, baseline=plain.output,
        **QUICK,
    )  # fmt: skip
    assert crossval.run(config) == "ok"
    folder = tmp_path / "learned" / "policies"
    # each training serves as validation of two test folds: three pairs of folds, four trainings each
    assert len(list((folder / "trainings").iterdir())) == 3 * 4
    for fold in (1, 2, 3):
        learned = policy.read(str(folder / f"fold-{fold}.yaml"))
        loaded = checkpoint.load(checkpoint.find(str(tmp_path / "learned" / "trainings" / f"seed-0-fold-{fold}")))
        assert loaded.training["policy"] == learned.to_dict()
    compared = json.loads((tmp_path / "learned" / "comparison.json").read_text())
    before, after = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("plain", "learned"))
    assert compared["change"] == pytest.approx(after["accuracy"] - before["accuracy"])
    assert compared["per_class"]["low"]["after"] == pytest.approx(after["per_class"]["low"]["recall"])
    low, high = compared["change_ci95"]
    assert low <= compared["change"] <= high


def test_what_a_policy_can_not_be_learned_from_is_said_at_the_start(
    copies: str, extracted: str, tmp_path: Path
) -> None:
    def config(run: str, **flags: Any) -> PolicyConfig:
        return PolicyConfig(**{"shards": (run,), "test_fold": 1, "output": str(tmp_path / "p.yaml"), **flags})

    with pytest.raises(ConfigError, match="no augmented copies"):
        learn_policy.run(config(extracted))
    with pytest.raises(ConfigError, match="--test-fold 7"):
        learn_policy.run(config(copies, test_fold=7))
    with pytest.raises(ConfigError, match=r"ends in \.yaml"):
        learn_policy.run(config(copies, output=str(tmp_path / "policy")))
    (tmp_path / "ts.yaml").write_text("classes: {low: {ts: 1}}")
    with pytest.raises(ConfigError, match="no copies of ts"):
        train.run(TrainConfig(shards=(copies,), output=str(tmp_path / "t"), policy=str(tmp_path / "ts.yaml")))


def test_extract_makes_the_copies_that_a_policy_takes(manifest_file: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("classes: {low: {gain: 1, shift: 0}, '*': {noise: 2}}")
    config = ExtractConfig(
        manifest=manifest_file, output=str(tmp_path / "run"), policy=str(tmp_path / "p.yaml"), copies=2
    )
    assert extract.run(config) == "ok"
    examples = shards.load([config.output], copies=True)
    made = {(labels[0], name) for labels, name in zip(examples.labels, examples.columns["transform_set"], strict=True)}
    assert made == {("low", "none"), ("low", "gain"), ("high", "none"), ("high", "noise")}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["total"]["copies"] == {"planned": 48, "written": 48, "rejected": 0}
    assert set(summary["this_run"]["ms_per_copy"]) == {"gain", "noise"}


def test_clips_of_one_source_in_two_folds_are_refused(copies: str, extracted: str, tmp_path: Path) -> None:
    """The manifest sees to that; two extractions of the same clips, dealt into other folds, break it."""
    with pytest.raises(ConfigError, match="one source lie in different folds"):
        train.run(TrainConfig(shards=(copies, extracted), output=str(tmp_path / "t"), test_fold=1))
