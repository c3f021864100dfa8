"""Presets of the training flags, for --recipe."""

import itertools
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

import tyro

from audioclf.errors import ConfigError

RECIPES: dict[str, dict[str, Any]] = {
    "scratch-small": {
        "model": "crnn16-texture",
        "frontend": "logmel32k",
        "dropout": 0.3,
        "epochs": 160,
        "optimizer": "adamw",
        "learning_rate": 2e-3,
        "schedule": "one-cycle",
        "weight_decay": 1e-2,
        "l2": 0.0,
        "crop_s": 3.0,
        "speed": 1.25,
        "gain_db": 6.0,
        "wave_mixup_alpha": 1.0,
        "wave_mixup_probability": 0.5,
        "wave_mixing": "between-class",
        "mask_bands": 16,
        "mask_frames": 16,
        "n_masks": 1,
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
"""By name: the flags that a recipe sets. Those of finetune and scratch-small were chosen on folds inside the training
part; those of probe are first guesses."""

FLAG = "--recipe"


def defaults(config_type: type, arguments: Sequence[str]) -> Any:
    """What flags are where they are not given: a job's own defaults, or those of the recipe among its arguments.

    Args:
        config_type: the job's dataclass.
        arguments: of the command line.

    Returns:
        An instance for tyro, in which flags that must be given are missing, and that is not checked: only with the
        flags given beside a recipe is it known what is asked for. None without a recipe.

    Raises:
        ConfigError: no recipe of that name.
    """
    name = _named(arguments)
    if name is None or FLAG.removeprefix("--") not in config_type.__dataclass_fields__:
        return None
    if name not in RECIPES:
        raise ConfigError(f"{FLAG} {name}: there are: {', '.join(sorted(RECIPES))}")
    unchecked = object.__new__(config_type)
    for field in fields(config_type):
        default = tyro.MISSING if field.default is MISSING else field.default
        object.__setattr__(unchecked, field.name, RECIPES[name].get(field.name, default))
    return unchecked


def _named(arguments: Sequence[str]) -> str | None:
    named = None
    for argument, following in itertools.pairwise([*arguments, "None"]):
        flag, equals, value = argument.partition("=")
        if flag == FLAG:
            named = value if equals else following  # the last one counts, as of any flag
    return None if named == "None" else named
