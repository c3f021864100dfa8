"""Clips of several labels, in AudioSet's layout, from the lists to mean average precision."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from audioclf.config import CrossvalConfig, ExtractConfig, ManifestConfig
from audioclf.pipelines import crossval, extract, manifest

RATE = 16_000
CLASSES = {"/m/low": ("Hum, low", 300), "/m/mid": ("Beep", 1500), "/m/high": ("Whistle", 6000)}


def write_audioset(folder: Path) -> str:
    """A balanced_train_segments.csv of 48 clips, each with one, two or three tones, and their files."""
    rng = np.random.default_rng(0)
    lines = ["# YTID, start_seconds, end_seconds, positive_labels"]
    time = np.arange(RATE) / RATE
    (folder / "audio").mkdir(parents=True)
    for i in range(48):
        mids = [mid for bit, mid in enumerate(CLASSES) if (1 + i % 7) >> bit & 1]
        sound = sum(np.sin(2 * np.pi * CLASSES[mid][1] * (1 + 0.1 * rng.random()) * time) for mid in mids)
        name = f"video{i:06d}"
        soundfile.write(folder / "audio" / f"{name}.wav", 0.2 * sound + 0.05 * rng.normal(size=RATE), RATE)
        lines.append(f'{name}, 30.000, 31.000, "{",".join(mids)}"')
    names = [f'{i},{mid},"{name}"' for i, (mid, (name, _)) in enumerate(CLASSES.items())]
    (folder / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *names]) + "\n")
    (folder / "balanced_train_segments.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "balanced_train_segments.csv")


@pytest.mark.heavy
def test_a_small_audioset_is_learned_and_measured(tmp_path: Path) -> None:
    listed, shards, output = (str(tmp_path / name) for name in ("m.parquet", "shards", "run"))
    metadata = write_audioset(tmp_path / "set")
    how = ManifestConfig(
        input=str(tmp_path / "set" / "audio"), output=listed, layout="audioset", metadata=metadata, folds=2
    )
    assert manifest.run(how) == "ok"
    assert extract.run(ExtractConfig(manifest=listed, output=shards)) == "ok"
    config = CrossvalConfig(
        shards=(shards,), output=output, epochs=30, batch_size=8, sampling="balanced", dropout=0.0, label_smoothing=0.05
    )
    assert crossval.run(config) == "ok"
    measured = json.loads(Path(output, "metrics.json").read_text())
    rows = pq.read_table(Path(output, "predictions.parquet")).to_pylist()
    assert measured["classes"] == sorted(name for name, _ in CLASSES.values())
    assert {len(row["labels"]) for row in rows} == {1, 2, 3}
    targets = np.array([[name in row["labels"] for name in measured["classes"]] for row in rows], int)
    probabilities = np.array([row["probabilities"] for row in rows])
    macro = average_precision_score(targets, probabilities, average="macro")
    theirs = multilabel_average_precision(torch.from_numpy(probabilities), torch.from_numpy(targets), num_labels=3)
    assert measured["mean_average_precision"] == pytest.approx(macro, abs=1e-6)
    assert measured["mean_average_precision"] == pytest.approx(float(theirs), abs=1e-6)
    assert macro > 0.95  # chance is about 0.57
