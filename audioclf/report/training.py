"""A run of jobs/train.py, evaluate.py, crossval.py or policy.py → the sections of its report."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from audioclf import metrics, parquet_files, read_ahead, rundir, storage
from audioclf.audio.recording import Recording
from audioclf.config import Training
from audioclf.errors import ClipError, ConfigError, StorageError
from audioclf.report import media
from audioclf.report.media import SoundSource
from audioclf.report.page import Block, Chart, Facts, Pictures, Section, Sound, Sounds, Table, name_of, words
from audioclf.rundir import RunDirectory

ALWAYS_SHOWN = ("model", "epochs", "batch_size", "learning_rate")
"""Settings, whether at their defaults or not."""
MISTAKES_SHOWN = 12
MOST_CLASSES = 60
"""Of a confusion matrix that can be read."""
FAINT_TO_FULL = [[0, "rgba(0, 114, 178, 0.05)"], [1, "rgba(0, 114, 178, 1)"]]
"""On light ground and on dark."""
OUTLINED = {"size": 9, "line": {"width": 1.5, "color": "#fff"}}
"""A marker that is seen on a bar and beside it."""
INTERVAL = "Whiskers are 95 % intervals, by drawing sources anew: clips cut from one recording resemble one another."


def sections(directory: RunDirectory, job: str) -> list[Section]:
    """What there is to see of a training or a measurement.

    Args:
        directory: of the run.
        job: that made it.

    Raises:
        ConfigError: it has not ended.
    """
    if job == "policy":
        return [_learned_alone(directory)]
    measured = rundir.read_json(directory.at(rundir.METRICS))
    if measured is None:
        raise ConfigError(
            f"{directory}: no {rundir.METRICS} yet: the run has not ended; run its command again to go on"
        )
    if job == "train":
        epochs = measured["epochs"]
        return [
            Section("How it ended", [_end(epochs[-1])], "Of the training clips: jobs/evaluate.py hears the others."),
            Section("Learning", _curves({"training": epochs})),
            _configuration(directory),
        ]
    predictions = parquet_files.read(directory.at(rundir.PREDICTIONS)).to_pylist()
    return [
        Section("How good it is", [_facts(measured), *_folds(measured)], _accuracy_note(directory, job, measured)),
        Section("Classes", _per_class(measured, predictions), INTERVAL),
        Section("What is taken for what", _confusion(measured), "Rows: the true class. Columns: what was heard."),
        Section("Worst mistakes", *_mistakes(measured, predictions)),
        Section("Learning", _curves(_histories(directory))),
        Section("Which augmentation helps which class", _policies(directory)),
        _configuration(directory),
    ]


def _end(last: dict[str, float]) -> Facts:
    return Facts(
        [
            ("epochs", f"{last['epoch']:,}"),
            ("loss", f"{last['loss']:.3f}"),
            ("accuracy, as augmented", f"{last['train_accuracy']:.1%}"),
        ]
    )


def _configuration(directory: RunDirectory) -> Section:
    """How it was trained: what every training has, and what differs from the flags' defaults."""
    binding = (rundir.read_json(directory.at(rundir.CONFIG)) or {}).get("binding", {})
    defaults = {name: value for name, value in asdict(Training()).items() if name not in ALWAYS_SHOWN}
    rows = [
        (name, _short(value))
        for name, value in sorted(binding.items())
        if name != "shards" and value != defaults.get(name)
    ]
    return Section("Settings", [Table(("setting", "value"), rows)], "Those that are not told are at their defaults.")


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) < 200 else text[:199] + "…"


def _facts(measured: dict[str, Any]) -> Facts:
    low, high = measured["accuracy_ci95"]
    rows = [
        ("accuracy", f"{measured['accuracy']:.1%}"),
        ("95 % interval", f"{low:.1%} to {high:.1%}"),
        ("mean average precision", f"{measured['mean_average_precision']:.3f}"),
        ("log-loss", f"{measured['log_loss']:.3f}"),
        ("calibration error", f"{measured['calibration_error']:.3f}"),
        ("clips", f"{measured['clips']:,}"),
    ]
    if seeds := measured.get("accuracy_per_seed"):
        rows.append(("accuracy of each seed", ", ".join(f"{value:.1%}" for value in seeds)))
    return Facts(rows)


def _accuracy_note(directory: RunDirectory, job: str, measured: dict[str, Any]) -> str:
    if job == "evaluate":
        warning = (rundir.read_json(directory.at(rundir.SUMMARY)) or {}).get("warning")
        return f"Careful: {warning}." if warning else ""
    seeds = len(measured.get("accuracy_per_seed", ())) or 1
    return "Every clip is heard by a network that was not trained on its fold, after the last epoch" + (
        f"; means of {seeds} seeds. Confusions are added up; mistakes are of the first." if seeds > 1 else "."
    )


def _folds(measured: dict[str, Any]) -> list[Chart]:
    folds = measured["accuracy_per_fold"]
    if len(folds) < 2:
        return []
    trace = {
        "type": "bar", "x": [f"fold {name}" for name in folds], "y": list(folds.values()), "texttemplate": "%{y:.1%}",
    }  # fmt: skip
    return [Chart([trace], {"yaxis": {"range": [0, 1], "tickformat": ".0%"}}, 260, "Accuracy of each fold")]


def _first_seed(predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    first = min(row["seed"] for row in predictions)
    return [row for row in predictions if row["seed"] == first]


def _per_class(measured: dict[str, Any], predictions: Sequence[dict[str, Any]]) -> list[Block]:
    """Recall with its interval, average precision; the worst class first."""
    classes = measured["classes"]
    rows = predictions  # of all seeds
    sources = np.array([row["source_id"] for row in rows])
    guessed = [classes[int(np.argmax(row["probabilities"]))] for row in rows]
    bars = []
    for name in classes:
        figures = measured["per_class"][name]
        of_class = np.array([name in row["labels"] for row in rows])
        if not of_class.any():
            continue
        right = np.array([name == guess for guess in guessed], float)[of_class]
        low, high = metrics.mean_ci95(right, list(sources[of_class]))
        bars.append((figures["recall"], low, high, figures["average_precision"] or 0.0, figures["precision"], name))
    bars.sort()
    bars = bars[:MOST_CLASSES][::-1]  # Plotly draws the last one on top
    recall, low, high, average, precision, names = (list(column) for column in zip(*bars, strict=True))
    errors = {
        "type": "data", "symmetric": False,
        "array": [max(0.0, h - r) for h, r in zip(high, recall, strict=True)],
        "arrayminus": [max(0.0, r - b) for b, r in zip(low, recall, strict=True)],
    }  # fmt: skip
    labels = [words(name) for name in names]
    traces = [
        {"type": "bar", "orientation": "h", "name": "recall", "y": labels, "x": recall, "error_x": errors},
        {
            "type": "scatter", "mode": "markers", "name": "average precision", "y": labels, "x": average,
            "marker": {**OUTLINED, "symbol": "diamond"},
        },
        {
            "type": "scatter", "mode": "markers", "name": "precision", "y": labels, "x": precision,
            "marker": {**OUTLINED, "symbol": "circle"},
        },
    ]  # fmt: skip
    layout = {"xaxis": {"range": [0, 1.02], "tickformat": ".0%"}, "yaxis": {"type": "category"}}
    return [Chart(traces, layout, 110 + 30 * len(names))]


def _confusion(measured: dict[str, Any]) -> list[Block]:
    classes = measured["classes"]
    if "confusion" not in measured or len(classes) > MOST_CLASSES:
        return []
    counts = np.array(measured["confusion"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels = [words(name) for name in classes]
    trace = {
        "type": "heatmap", "x": labels, "y": labels, "z": shares.tolist(),
        "text": [[f"{count:,.0f}" if count else "" for count in row] for row in counts],
        "texttemplate": "%{text}" if len(classes) <= 20 else "", "colorscale": FAINT_TO_FULL,
        "zmin": 0, "zmax": 1, "showscale": False, "xgap": 1, "ygap": 1,
        "customdata": counts.tolist(), "hovertemplate": "%{y} taken for %{x}: %{customdata}<extra></extra>",
    }  # fmt: skip
    layout = {
        "yaxis": {"autorange": "reversed", "type": "category"}, "xaxis": {"type": "category", "tickangle": -45},
    }  # fmt: skip
    return [Chart([trace], layout, 160 + 32 * len(classes))]


def _mistakes(measured: dict[str, Any], predictions: Sequence[dict[str, Any]]) -> tuple[list[Block], str]:
    """The clips whose own class was held least likely; and in words how many mistakes there are."""
    classes = measured["classes"]
    wrong = []
    for row in _first_seed(predictions):
        of_labels = [row["probabilities"][classes.index(label)] for label in row["labels"] if label in classes]
        best = int(np.argmax(row["probabilities"]))
        if of_labels and classes[best] not in row["labels"]:
            wrong.append((max(of_labels), classes[best], row["probabilities"][best], row))
    wrong.sort(key=lambda one: (one[0], one[3]["clip_id"]))
    shown = wrong[:MISTAKES_SHOWN]
    note = f"{len(wrong):,} of {len(_first_seed(predictions)):,} clips are taken for another class" + (
        f"; the {len(shown)} of which the network was surest." if len(shown) < len(wrong) else "."
    )
    if not shown:
        return [Facts([("mistakes", "none")])], note
    source = SoundSource()
    return [Sounds([_mistake(*one, source=source) for one in shown])], note


def _mistake(of_label: float, heard: str, of_heard: float, row: dict[str, Any], source: SoundSource) -> Sound:
    name = name_of(row["uri"])
    fold = "" if row["fold"] is None else f"fold {row['fold']}; "
    lines = [f"{fold}is {', '.join(row['labels'])} ({of_label:.2f})", f"heard as {heard} ({of_heard:.2f})"]
    try:
        samples, rate = source.get(partial(_heard, row))
    except (ClipError, StorageError) as error:
        return Sound(name, [*lines, f"no sound: {error}"])
    return Sound(name, lines, media.picture_of(samples, rate), media.audio(samples, rate))


def _heard(row: dict[str, Any]) -> tuple[np.ndarray, int]:
    """The beginning of a clip, at its own rate."""
    file = storage.open_ranged(row["uri"])
    with Recording(file, storage.display(row["uri"]), row.get("start_s"), row.get("end_s")) as recording:
        return recording.read(0, round(media.MOST_S * recording.sample_rate)), recording.sample_rate


def _histories(directory: RunDirectory) -> dict[str, list[dict[str, float]]]:
    """The epochs of each training of a cross-validation."""
    names = storage.folders_in(directory.at(rundir.TRAININGS))
    found = read_ahead.each(rundir.read_json, [directory.at(rundir.TRAININGS, name, rundir.METRICS) for name in names])
    return {name: content["epochs"] for name, content in zip(names, found, strict=True) if content}


def _curves(histories: dict[str, list[dict[str, float]]]) -> list[Block]:
    if not histories:
        return []
    blocks: list[Block] = []
    for key, title, layout in (
        ("loss", "Loss on the training clips", {"yaxis": {"rangemode": "tozero"}}),
        ("train_accuracy", "Accuracy on the training clips, as augmented", {"yaxis": {"tickformat": ".0%"}}),
    ):
        traces = [
            {
                "type": "scatter", "mode": "lines", "name": name.replace("-", " "),
                "x": [epoch["epoch"] for epoch in epochs], "y": [epoch[key] for epoch in epochs],
            }
            for name, epochs in histories.items()
        ]  # fmt: skip
        layout = {**layout, "xaxis": {"title": {"text": "epoch"}}, "showlegend": 1 < len(traces) <= 10}
        blocks.append(Chart(traces, layout, 300, title))
    return blocks


def _policies(directory: RunDirectory) -> list[Block]:
    """The heat maps of the policies that a cross-validation learned."""
    names = sorted(name for name in storage.names_in(directory.at(rundir.POLICIES)) if name.endswith(".png"))
    pictures = [
        (
            name.removesuffix(".png").replace("-", " "),
            media.png(storage.read_bytes(directory.at(rundir.POLICIES, name))),
        )
        for name in names
    ]
    return [Pictures(pictures)] if pictures else []


def _learned_alone(directory: RunDirectory) -> Section:
    """The heat map that jobs/policy.py wrote beside its run directory."""
    uri = directory.uri.removesuffix(".learned") + ".png"
    if not storage.exists(uri):
        raise ConfigError(f"{storage.display(uri)}: not there: the run has not ended; run its command again to go on")
    picture = ("change of the log-loss of clips left out", media.png(storage.read_bytes(uri)))
    return Section("Which augmentation helps which class", [Pictures([picture])])
