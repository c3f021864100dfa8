"""Two cross-validations over the same clips → what changed from one to the other, clip by clip."""

import logging
from typing import Any

import numpy as np

from audioclf import metrics, parquet_files, rundir
from audioclf.errors import ConfigError
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

COMPARISON = "comparison.json"


def require(baseline: RunDirectory) -> None:
    """Raise ConfigError unless there is a finished cross-validation."""
    config = baseline.config()
    if config is None or config["job"] != "crossval" or not baseline.is_complete():
        raise ConfigError(f"--baseline {baseline}: not the directory of a finished jobs/crossval.py")


def runs(baseline: RunDirectory, run: RunDirectory) -> dict[str, Any]:
    """The change of accuracy from the baseline to a run; each clip's hits are the mean over the seeds.

    Returns:
        `baseline`; `change` and `change_ci95` (sources drawn anew); `per_class`, the same and both recalls for each.

    Raises:
        ConfigError: not over the same clips.
    """
    before, after = _hits(baseline), _hits(run)
    if before.keys() != after.keys():
        raise ConfigError(f"--baseline {baseline}: it has other clips than {run}")
    clips = sorted(after)
    hits = np.array([(before[clip][0], after[clip][0]) for clip in clips])
    sources, labels = (np.array([after[clip][i] for clip in clips], dtype=object) for i in (1, 2))
    classes = sorted({label for clip in labels for label in clip})
    of_class = {name: np.array([name in clip for clip in labels]) for name in classes}
    return {
        "baseline": str(baseline),
        **_change(hits, sources),
        "per_class": {name: _change(hits[rows], sources[rows]) for name, rows in of_class.items()},
    }


def _change(hits: np.ndarray, sources: np.ndarray) -> dict[str, Any]:
    """Of [N, 2] hits before and after."""
    change = hits[:, 1] - hits[:, 0]
    return {
        "before": float(hits[:, 0].mean()),
        "after": float(hits[:, 1].mean()),
        "change": float(change.mean()),
        "change_ci95": metrics.mean_ci95(change, sources.tolist()),
    }


def _hits(run: RunDirectory) -> dict[str, tuple[float, str, tuple[str, ...]]]:
    """By clip: the share of seeds that hit it, its source and its labels."""
    measured = rundir.read_json(run.at(rundir.METRICS))
    if measured is None:
        raise ConfigError(f"{run}: not a finished run of jobs/crossval.py")
    index = {name: i for i, name in enumerate(measured["classes"])}
    found: dict[str, list[float]] = {}
    about: dict[str, tuple[str, tuple[str, ...]]] = {}
    for row in parquet_files.read(run.at(rundir.PREDICTIONS)).to_pylist():
        likeliest = int(np.argmax(row["probabilities"]))
        found.setdefault(row["clip_id"], []).append(float(likeliest in {index[label] for label in row["labels"]}))
        about[row["clip_id"]] = row["source_id"], tuple(row["labels"])
    return {clip: (float(np.mean(values)), *about[clip]) for clip, values in found.items()}


def report(compared: dict[str, Any]) -> None:
    """The change in points, with intervals, overall and by class."""
    log.info("against %s: %s", compared["baseline"], _in_words(compared))
    for name, of_class in list(compared["per_class"].items())[:50]:
        log.info("  %-30s %s", name, _in_words(of_class))


def _in_words(one: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in one["change_ci95"])
    return (
        f"{one['before']:.4f} → {one['after']:.4f}, {100 * one['change']:+.1f} points "
        f"(95 % interval {low:+.1f} to {high:+.1f}, paired, over sources)"
    )
