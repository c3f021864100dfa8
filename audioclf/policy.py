"""Which augmented copies training takes: a weight for each class and transform set."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from audioclf import storage, yaml_files
from audioclf.audio.augment import ORIGINAL, TRANSFORM_SETS
from audioclf.errors import ConfigError, SchemaError
from audioclf.labels import EVERY_CLASS, nearest

log = logging.getLogger("audioclf")


@dataclass(frozen=True)
class Policy:
    """For each class, or `*` for those not named, the weight of each transform set against the original's 1.

    Each time a segment comes up, training shows the original or one of its copies: a set is drawn by these odds, then
    one of its copies evenly. A set that is not named has the weight 0. A clip of several labels gives a set the least
    of the weights that its labels give it: a set that harms one of them is not used.
    """

    classes: Mapping[str, Mapping[str, float]]

    def weights(self, labels: Iterable[str]) -> dict[str, float]:
        """The sets that a clip of these labels is augmented with, and their weights, all above 0."""
        default = self.classes.get(EVERY_CLASS, {})
        of_labels = [self.classes.get(label, default) for label in labels] or [default]
        least = {name: min(of_label.get(name, 0.0) for of_label in of_labels) for name in of_labels[0]}
        return {name: weight for name, weight in least.items() if weight > 0}

    @property
    def transform_sets(self) -> tuple[str, ...]:
        """All sets that some class is augmented with, by name."""
        return tuple(sorted({name for sets in self.classes.values() for name, weight in sets.items() if weight > 0}))

    def to_dict(self) -> dict[str, Any]:
        return {"classes": {name: dict(sets) for name, sets in sorted(self.classes.items())}}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=True, allow_unicode=True)


def parse(text: str, name: str) -> Policy:
    """A policy file: `classes:`, below it each class (or `*`), below that `SET: WEIGHT`.

    Args:
        text: YAML.
        name: of the file, for messages.

    Raises:
        ConfigError: names the file, the field and what it should be.
    """
    content = yaml_files.parse(text, name)
    if not isinstance(content, dict) or set(content) != {"classes"} or not isinstance(content["classes"], dict):
        raise ConfigError(f"{name}: a policy has one field, classes: below it each class or '*', then SET: WEIGHT")
    return Policy({_class_name(key, name): _sets(sets, key, name) for key, sets in content["classes"].items()})


def read(path_or_uri: str) -> Policy:
    """A policy file. Raises ConfigError where there is none, or it is not one."""
    return parse(storage.read_text(storage.to_uri(path_or_uri)), path_or_uri)


def warn_of_strangers(policy: Policy, classes: Iterable[str]) -> None:
    """Say which classes of a policy no clip has: a misspelt one would be taken for all others."""
    known = sorted(classes)
    for name in sorted(policy.classes.keys() - {EVERY_CLASS, *known}):
        log.warning("the policy's class %s is no clip's label; %s", name, nearest(name, known, known))


def _class_name(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{name}: classes: {key!r} is no text; put the class's name in quotes")
    return key


def _sets(sets: object, key: str, name: str) -> dict[str, float]:
    where = f"{name}: classes: {key}"
    if sets is None:
        return {}
    if not isinstance(sets, dict):
        raise ConfigError(f"{where}: {sets!r} should be SET: WEIGHT, or {{}} for no augmentation")
    for transform_set, weight in sets.items():
        if transform_set not in TRANSFORM_SETS:
            raise ConfigError(f"{where}: {transform_set!r} is no transform set; there are: {', '.join(TRANSFORM_SETS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ConfigError(f"{where}: {transform_set}: the weight {weight!r} should be a number, 0 or more")
    return {transform_set: float(weight) for transform_set, weight in sets.items()}


def row_weights(policy: Policy | None, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """How often training takes each row of shards, against the original of its segment.

    Args:
        policy: None: originals and copies alike.
        columns: clip_id, segment_index, transform_set and labels of the rows.

    Returns:
        [N] float64: 1 for originals; the rows of one segment and set share the set's weight.
    """
    sets = columns["transform_set"]
    if policy is None:
        return np.ones(len(sets))
    keys = list(zip(columns["clip_id"], columns["segment_index"], sets, strict=True))
    of_key: dict[tuple[Any, ...], int] = {}
    for key in keys:
        of_key[key] = of_key.get(key, 0) + 1
    of_labels = {labels: policy.weights(labels) for labels in set(map(tuple, columns["labels"]))}
    return np.array(
        [
            1.0 if key[2] == ORIGINAL else of_labels[tuple(labels)].get(key[2], 0.0) / of_key[key]
            for key, labels in zip(keys, columns["labels"], strict=True)
        ]
    )


def training_rows(
    policy: Policy | None, columns: Mapping[str, Sequence[Any]], without: Iterable[int | None]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that training takes, and their weights: the one place that keeps it from what it is tested on.

    Args:
        policy: see `row_weights`.
        columns: those, fold and source_id of all rows.
        without: folds to test or validate on. Rows of no fold are trained on.

    Returns:
        [T] row indices and [T] float64.

    Raises:
        SchemaError: a source has clips among them and outside.
    """
    held_out = {fold for fold in without if fold is not None}
    out = np.array([fold in held_out for fold in columns["fold"]], bool)
    sources = np.array(columns["source_id"], dtype=object)
    if shared := set(sources[out]) & set(sources[~out]):
        raise SchemaError(
            f"source {min(shared)} has clips to train on and clips to test on: {len(shared)} such sources"
        )
    weights = row_weights(policy, columns)
    rows = np.flatnonzero(~out & (weights > 0))
    return rows, weights[rows]
