"""Extraction without Ray: clips below a folder, its units one after the other, and the rows made of them."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from audioclf import conservation, extraction, layouts, manifest, storage
from audioclf.audio.frontend import get_front_end
from audioclf.augmentation import Augmentation
from audioclf.conservation import Totals
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.units import Unit

SPEC = get_front_end("logmel44k")
Wav = Callable[..., Path]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=0.1, size=round(seconds * 44_100)).astype(np.float32)


def list_clips(folder: Path) -> list[manifest.Clip]:
    return layouts.from_folders(layouts.list_audio(storage.to_uri(str(folder / "in"))).files)


def run(
    folder: Path, clips: list[manifest.Clip], units: list[Unit], segment_s: float = 0.5, **how: Any
) -> tuple[list[extraction.UnitCounts], Totals]:
    """Extract clips into folder/run unit by unit, and check that nothing is lost."""
    uri = storage.to_uri(str(folder / "m.parquet"))
    manifest.write(manifest.to_table(clips), uri)
    plan = ExtractPlan(uri, storage.to_uri(str(folder / "run")), SPEC, segment_s, "digest", Augmentation(**how))
    with contextlib.closing(UnitExtractor(plan)) as extractor:
        counts = [extractor(unit) for unit in units]
    return counts, conservation.check(plan, units, manifest.read(uri).table)


def rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "run" / "data").iterdir())
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def picture(row: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(row["log_mel"], np.float16).reshape(128, -1)
