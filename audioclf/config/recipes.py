"""Presets of the training flags, for --recipe."""

from dataclasses import replace
from typing import Any, TypeVar

from audioclf.errors import ConfigError

RECIPES: dict[str, dict[str, Any]] = {
    "scratch-small": {
        "model": "crnn",
        "epochs": 150,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "one-cycle",
        "weight_decay": 1e-2,
        "l2": 0.0,
        "label_smoothing": 0.1,
        "mixup_alpha": 0.5,
        "roll_s": 2.0,
        "amp": True,
    },
    "finetune": {
        "init": "mn04",
        "freeze": "head-first",
        "unfreeze_epochs": 20,
        "start_share": 0.5,
        "epochs": 40,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "layer_decay": 0.9,
        "warmup_epochs": 1.0,
        "l2": 0.0,
        "mixup_alpha": 0.3,
        "roll_s": 1.0,
        "amp": True,
    },
    "probe": {
        "init": "mn04",
        "freeze": "backbone",
        "epochs": 30,
        "learning_rate": 3e-3,
        "l2": 0.0,
    },
}
"""By name: the flags that a recipe sets. Those of finetune were chosen on folds inside the training part; the others
are first guesses."""

Config = TypeVar("Config")


def applied(config: Config) -> Config:
    """A job's flags with those of the recipe it names; what was given beside it is overridden.

    Raises:
        ConfigError: no recipe of that name.
    """
    name = getattr(config, "recipe")  # noqa: B009 of some jobs' flags
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: there are: {', '.join(sorted(RECIPES))}")
    return replace(config, **RECIPES[name])  # pyright: ignore[reportArgumentType, reportUnknownVariableType, reportCallIssue]
