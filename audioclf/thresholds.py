"""From which probability on a class counts as heard: learned on clips whose labels are known, or given in a file."""

import math
from collections.abc import Sequence

import numpy as np

from audioclf import storage, yaml_files
from audioclf.errors import ConfigError
from audioclf.labels import EVERY_CLASS, nearest, some_of

MIN_POSITIVES = 5
"""Clips of a class from which its threshold is learned; fewer say too little."""


def learn(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of each class, the threshold with the highest F1 over the clips.

    It lies midway between two probabilities that were predicted (the lowest and 0 where every clip counts), so that
    rounding does not decide. Of several with that F1 it is the highest: fewer false alarms.

    Args:
        probabilities: [N, C]; those of the threshold and above count.
        targets: [N, C] of zeros and ones.

    Returns:
        [C] float64; NaN for a class of fewer than MIN_POSITIVES clips, and for one that every clip has.
    """
    assert probabilities.shape == targets.shape, (probabilities.shape, targets.shape)
    columns = zip(probabilities.T, targets.T, strict=True)
    return np.array([_best(p.astype(np.float64), t > 0) for p, t in columns], np.float64)


def _best(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """Of one class: [N] and [N]."""
    n_positive = int(positive.sum())
    if n_positive < MIN_POSITIVES or n_positive == len(positive):
        return math.nan
    order = np.argsort(-probabilities, kind="stable")
    values, right = probabilities[order], np.cumsum(positive[order])
    below = np.append(values[1:], 0.0)
    cuts = np.flatnonzero(np.append(values[:-1] > below[:-1], True))  # not between equal values
    f1 = 2 * right[cuts] / (cuts + 1 + n_positive)  # a quotient of integers: equal ones are equal in float64
    cut = cuts[np.argmax(f1)]  # the first, so the highest
    middle = (values[cut] + below[cut]) / 2
    return float(middle if middle > below[cut] else values[cut])  # neighbours in float64 have no middle


def measure(thresholds: np.ndarray, probabilities: np.ndarray, targets: np.ndarray) -> dict[str, list[float | None]]:
    """What each class's threshold does on some clips.

    Args:
        thresholds: [C], NaN for none.
        probabilities: [N, C].
        targets: [N, C] of zeros and ones.

    Returns:
        `threshold`, `precision_at_threshold`, `recall_at_threshold` and `f1_at_threshold` of each class, None for a
        class without a threshold; a share of nothing is 0.
    """
    counted, positive = probabilities.astype(np.float64) >= thresholds, targets > 0
    right, n_counted, n_positive = (counted & positive).sum(0), counted.sum(0), positive.sum(0)
    none = np.isnan(thresholds)
    columns = {
        "threshold": thresholds,
        "precision_at_threshold": right / np.maximum(n_counted, 1),
        "recall_at_threshold": right / np.maximum(n_positive, 1),
        "f1_at_threshold": 2 * right / np.maximum(n_counted + n_positive, 1),
    }
    return {key: or_none(np.where(none, np.nan, values)) for key, values in columns.items()}


def or_none(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them: None for NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def describe(thresholds: np.ndarray, names: Sequence[str]) -> str:
    """A line for the log: how many classes have one, from where to where, and which have none.

    Args:
        thresholds: [C] as learned, NaN for none.
        names: [C].
    """
    found = thresholds[~np.isnan(thresholds)]
    span = f", {found.min():.2f} to {found.max():.2f}" if len(found) else ""
    words = f"thresholds learned for {len(found)} of {len(names)} classes{span}"
    if without := [name for name, value in zip(names, thresholds, strict=True) if np.isnan(value)]:
        words += f"; none for {some_of(without)} (fewer than {MIN_POSITIVES} clips have it, or all)"
    return words


def read(uri: str, names: Sequence[str], mids: Sequence[str] | None = None) -> dict[str, float]:
    """A file of thresholds (YAML): `CLASS: VALUE`, `*` for all classes not named.

    Args:
        uri: of the file.
        names: the network's classes.
        mids: AudioSet's ids of them, by which the file may name them too.

    Returns:
        The threshold of every class, by name.

    Raises:
        ConfigError: there is no such file, or it is not one: names the file, the field and what it should be.
    """
    return parse(storage.read_text(uri), storage.display(uri), names, mids)


def parse(text: str, name: str, names: Sequence[str], mids: Sequence[str] | None = None) -> dict[str, float]:
    """The content of a file of that name, as `read` takes it."""
    content = yaml_files.parse(text, name)
    if not isinstance(content, dict):
        raise ConfigError(f'{name}: should be CLASS: VALUE, a line each, and "{EVERY_CLASS}": VALUE for all others')
    known = {**(dict(zip(mids, names, strict=True)) if mids else {}), **{one: one for one in names}}
    given: dict[str, float] = {}
    key_of: dict[str, str] = {}
    for key, value in content.items():
        if not isinstance(key, str):
            raise ConfigError(f"{name}: {key!r} is no text; put the class's name in quotes")
        if key != EVERY_CLASS and key not in known:
            raise ConfigError(f"{name}: {key!r} is no class of the network; {nearest(key, known, names)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(f"{name}: {key}: {value!r} should be a number from 0 to 1, such as 0.25")
        of_class = known.get(key, key)
        if of_class in given:
            raise ConfigError(f"{name}: {key} and {key_of[of_class]} are one class; leave one of them out")
        given[of_class], key_of[of_class] = float(value), key
    if EVERY_CLASS not in given and (without := [one for one in names if one not in given]):
        raise ConfigError(f'{name}: no threshold for {some_of(without)}; add them, or "{EVERY_CLASS}" for all others')
    default = given.get(EVERY_CLASS, math.nan)
    return {one: given.get(one, default) for one in names}
