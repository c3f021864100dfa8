"""Flags: what each job refuses before any work is done."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from audioclf import cli, config
from audioclf.config import recipes
from audioclf.errors import AudioclfError, ConfigError


def manifest(**flags: Any) -> config.ManifestConfig:
    return config.ManifestConfig(**{"input": "in", "output": "m.parquet", **flags})


def extract(**flags: Any) -> config.ExtractConfig:
    return config.ExtractConfig(**{"manifest": "m.parquet", "output": "out", **flags})


def train(**flags: Any) -> config.TrainConfig:
    return config.TrainConfig(**{"shards": ("s",), "output": "out", **flags})


def crossval(**flags: Any) -> config.CrossvalConfig:
    return config.CrossvalConfig(**{"shards": ("s",), "output": "out", **flags})


def evaluate(**flags: Any) -> config.EvaluateConfig:
    return config.EvaluateConfig(**{"shards": ("s",), "checkpoint": "c", "output": "out", **flags})


def tag(**flags: Any) -> config.TagConfig:
    return config.TagConfig(**{"input": "in", "checkpoint": "c", "output": "out", **flags})


@pytest.mark.parametrize(
    ("job", "flags", "says"),
    [
        (manifest, {"layout": "esc50"}, "--layout esc50 needs --metadata"),
        (manifest, {"layout": "csv"}, "--layout csv needs --metadata"),
        (manifest, {"metadata": "x.csv"}, "--layout folders reads no --metadata"),
        (manifest, {"folds": 1}, "--folds"),
        (manifest, {"folds": 2, "fold_regex": "(1)"}, "both set the fold"),
        (manifest, {"limit": 0}, "--limit"),
        (tag, {"memory_mb": 499}, "--memory-mb must be 500 or more"),
        (tag, {"window_s": float("inf")}, "--window-s must be 0.01 seconds or more"),
        (tag, {"hop_s": 1e-9}, "--hop-s must be 0.01 seconds or more"),
        (extract, {"copies": 2, "backgrounds": "b"}, "--copies and --backgrounds needs --augment or --policy"),
        (extract, {"engine": "r3"}, "--engine needs --augment or --policy"),
        (crossval, {"policy_epochs": 3}, "need --policy learn"),
        (crossval, {"policy": "p.yaml", "policy_validation_folds": 2}, "need --policy learn"),
        (crossval, {"policy_repetitions": 4}, "need --policy learn"),
        (crossval, {"epochs": 3, "warmup_epochs": 3.0}, "--warmup-epochs must be fewer than --epochs \\(3\\)"),
        (extract, {"segment_s": 0.0}, "--segment-s"),
        (extract, {"segment_s": float("nan")}, "--segment-s"),
        (extract, {"max_segment_s": -1.0}, "--max-segment-s"),
        (extract, {"copies": 0}, "--copies"),
        (extract, {"max_reject_fraction": 1.01}, "--max-reject-fraction"),
        (extract, {"num_actors": -1}, "--num-actors"),
        (extract, {"unit_segments": -1}, "--unit-segments"),
        (extract, {"limit": -1}, "--limit"),
        (train, {"epochs": 0}, "--epochs"),
        (train, {"batch_size": 0}, "--batch-size"),
        (train, {"learning_rate": 0.0}, "--learning-rate"),
        (train, {"l2": -1e-9}, "--l2"),
        (train, {"dropout": 1.0}, "--dropout"),
        (train, {"freeze": "head-first", "unfreeze_epochs": 2.5}, "--unfreeze-epochs"),
        (train, {"freeze": "gradual", "start_share": 0.5}, "--start-share"),
        (train, {"freeze": "head-first", "start_share": 1.0}, "--start-share"),
        (train, {"freeze": "head-first", "unfreeze_epochs": 9.0, "epochs": 9}, "--unfreeze-epochs"),
        (train, {"crop_s": -1.0}, "--crop-s"),
        (train, {"crop_s": 1e-6}, "--crop-s must be 0, or 0.1 or more"),
        (train, {"speed": 0.8}, "--speed must lie between 1 and 4"),
        (train, {"speed": float("nan")}, "--speed"),
        (train, {"num_workers": -1}, "--num-workers"),
        (train, {"seed": -1}, "--seed"),
        (crossval, {"epochs": 0}, "--epochs"),
        (crossval, {"seeds": 0}, "--seeds"),
        (crossval, {"num_workers": 0}, "--num-workers"),
        (evaluate, {"batch_size": 0}, "--batch-size"),
        (evaluate, {"num_actors": -1}, "--num-actors"),
        (train, {"num_workers": 2, "min_workers": 3}, "--min-workers must lie between 1 and --num-workers"),
        (train, {"num_workers": 0, "min_workers": 1}, "--min-workers"),
        (tag, {"use_gpu": True, "gpus_per_actor": 1.5}, "--gpus-per-actor must be above 0 and at most 1"),
        (tag, {"window_s": 0.0}, "--window-s"),
        (tag, {"hop_s": 0.0}, "--hop-s"),
        (tag, {"top_k": 0}, "--top-k"),
        (tag, {"threshold": 1.1}, "--threshold"),
        (tag, {"min_age_s": -1.0}, "--min-age-s"),
        (tag, {"unit_s": 0.0}, "--unit-s"),
        (tag, {"keep_days": 0.0}, "--keep-days"),
        (tag, {"keep_days": 500_000.0}, "--keep-days .*without it no run is removed"),
        (tag, {"num_actors": -1}, "--num-actors"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(job: Callable[..., Any], flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        job(**flags)


@pytest.mark.parametrize(
    ("job", "flags"),
    [
        (extract, {"max_reject_fraction": 0.0}),
        (extract, {"max_reject_fraction": 1.0}),
        (train, {"dropout": 0.0, "l2": 0.0, "num_workers": 0}),
        (tag, {"threshold": 0.0}),
        (tag, {"threshold": 1.0}),
        (manifest, {"folds": 2, "layout": "csv", "metadata": "x.csv"}),
    ],
)
def test_the_ends_of_a_range_belong_to_it(job: Callable[..., Any], flags: dict[str, Any]) -> None:
    made = job(**flags)
    assert {name: getattr(made, name) for name in flags} == flags


def test_a_config_error_is_a_value_error_too() -> None:
    assert issubclass(ConfigError, AudioclfError)
    assert issubclass(ConfigError, ValueError)


def test_training_of_takes_what_train_and_crossval_share() -> None:
    how = {"epochs": 7, "learning_rate": 0.5, "optimizer": "sgd", "dropout": 0.25}
    expected = config.Training(epochs=7, learning_rate=0.5, optimizer="sgd", dropout=0.25)
    assert config.training_of(train(seed=3, **how)) == expected
    assert config.training_of(crossval(seeds=3, **how)) == expected


def test_a_recipe_sets_flags_and_those_given_beside_it_win(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[config.TrainConfig] = []
    pipeline = SimpleNamespace(run=lambda given: seen.append(given) or "ok")
    monkeypatch.setattr(cli.importlib, "import_module", lambda _: pipeline)
    argv = ["train", "--shards", "s", "--output", "o", "--recipe", "finetune", "--epochs", "33", "--layer-decay", "1.0"]
    monkeypatch.setattr(sys, "argv", argv)
    assert cli.run(config.TrainConfig, "train", None) == 0
    assert (seen[0].epochs, seen[0].layer_decay, seen[0].shards) == (33, 1.0, ("s",))
    assert seen[0].init == recipes.RECIPES["finetune"]["init"]
    monkeypatch.setattr(sys, "argv", [*argv[:5], "--recipe=finetune", "--start-share", "0.3"])
    assert cli.run(config.TrainConfig, "train", None) == 0
    assert (seen[1].freeze, seen[1].start_share) == ("head-first", 0.3)
    monkeypatch.setattr(
        sys, "argv", [*argv[:5], "--recipe", "scratch-small", "--schedule", "cosine", "--warmup-epochs", "2"]
    )
    assert cli.run(config.TrainConfig, "train", None) == 0
    assert (seen[2].model, seen[2].schedule, seen[2].warmup_epochs) == ("crnn16-texture", "cosine", 2)
    monkeypatch.setattr(sys, "argv", [*argv[:5], "--recipe", "finetune", "--recipe=probe"])
    assert cli.run(config.TrainConfig, "train", None) == 0
    assert (seen[3].recipe, seen[3].freeze) == ("probe", "backbone")
    monkeypatch.setattr(sys, "argv", [*argv[:5], "--recipe", "None"])
    assert cli.run(config.TrainConfig, "train", None) == 0
    assert seen[4] == config.TrainConfig(shards=("s",), output="o")
    monkeypatch.setattr(sys, "argv", [*argv[:5], "--recipe", "cake"])
    assert cli.run(config.TrainConfig, "train", None) == 2


def test_recipes_set_flags_of_training_alone() -> None:
    for recipe in recipes.RECIPES.values():
        config.Training(**recipe)
