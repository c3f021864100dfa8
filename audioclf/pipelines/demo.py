"""The jobs from clips to tags and reports in turn, each in a process of its own as a user would start it."""

import json
import logging
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from audioclf import demo_corpus, storage
from audioclf.config import DemoConfig
from audioclf.errors import ConfigError, DemoError

log = logging.getLogger("audioclf")

MARKER = ".audioclf-demo"
JOBS = Path("jobs")
REPORTED = "shards", "crossval", "tags"
"""Runs of which the demo makes reports."""


def run(config: DemoConfig) -> str:
    """Make or take the clips, run the jobs, show what came of it."""
    began = time.monotonic()
    folder = Path(config.output)
    if config.audio is not None and not Path(config.audio).is_dir():
        raise ConfigError(f"--audio {config.audio}: no such folder")
    if config.audio is not None and Path(config.audio).resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"--audio {config.audio}: lies in {folder}, which the demo empties first; move it elsewhere")
    _clear(folder)
    clips = Path(config.audio) if config.audio else folder / "clips"
    archive = clips if config.audio else folder / "archive"
    if config.audio is None:
        log.info("making a corpus of %d synthetic sound classes in %s", len(demo_corpus.CLASSES), clips)
        demo_corpus.make_clips(clips)
        demo_corpus.make_recordings(archive)
    at = {name: str(folder / name) for name in ("manifest.parquet", "shards", "train", "evaluate", "crossval", "tags")}
    source = {} if config.audio else {"source_regex": r"^(.+)-\d+\."}
    part = {"limit": 20} if config.audio else {"window_s": 2}
    _job("manifest", input=clips, output=at["manifest.parquet"], folds=config.folds, **source)
    _job("extract", manifest=at["manifest.parquet"], output=at["shards"])
    _job("train", shards=at["shards"], output=at["train"], test_fold=1, epochs=config.epochs)
    _job("evaluate", shards=at["shards"], checkpoint=at["train"], output=at["evaluate"], test_fold=1)
    _job("crossval", shards=at["shards"], output=at["crossval"], epochs=config.epochs)
    _job("tag", input=archive, checkpoint=at["train"], output=at["tags"], top_k=1, **part)
    for name in REPORTED:
        _job("report", run=at[name])
    _show(folder, at, time.monotonic() - began)
    return "ok"


def _clear(folder: Path) -> None:
    """Empty the demo's folder, and no other."""
    if folder.exists():
        if not (folder / MARKER).exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: exists and is not from an earlier demo; give another --output")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()


def _job(name: str, **flags: object) -> None:
    """Run one job; its progress goes to the same terminal.

    Raises:
        DemoError: it failed. Too many rejects is an outcome, not a failure.
    """
    arguments = [word for flag, value in flags.items() for word in ("--" + flag.replace("_", "-"), str(value))]
    log.info("─" * 100)
    log.info("$ python jobs/%s.py %s", name, shlex.join(arguments))
    code = subprocess.run([sys.executable, str(JOBS / f"{name}.py"), *arguments], check=False).returncode
    if code not in (0, 3):
        raise DemoError(f"jobs/{name}.py ended with exit code {code}; what it said stands above")


def _show(folder: Path, at: dict[str, str], seconds: float) -> None:
    extract, evaluation, crossval = (
        _read(at["shards"], "summary.json"),
        _read(at["evaluate"], "metrics.json"),
        _read(at["crossval"], "metrics.json"),
    )
    clips = extract["total"]["clips"]
    table = Table(title=f"audioclf demo, {seconds:.0f} s", show_header=False)
    table.add_row("clips in", f"{clips['planned']:,}")
    table.add_row("clips out", f"{clips['ok']:,}, as {extract['total']['segments']['written']:,} log-mel pictures")
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(extract["total"]["rejects_by_reason"].items()))
    table.add_row("clips rejected", f"{clips['rejected']:,}" + (f" ({reasons})" if reasons else ""))
    table.add_row("accuracy on held-out fold 1", _percent(evaluation))
    table.add_row("accuracy over all folds in turn", _percent(crossval))
    for name, tags in _top_tags(Path(at["tags"])).items():
        table.add_row(f"heard in {name}", tags)
    table.add_row("to look at in a browser", "\n".join(str(folder / name / "report.html") for name in REPORTED))
    table.add_row("where everything lies", f"{folder}/")
    Console().print(table)


def _percent(measured: dict[str, Any]) -> str:
    low, high = measured["accuracy_ci95"]
    return f"{measured['accuracy']:.1%} of {measured['clips']} clips (95 % interval {low:.0%} to {high:.0%})"


def _read(folder: str, name: str) -> dict[str, Any]:
    return json.loads(Path(folder, name).read_text())


def _top_tags(tags: Path, most: int = 4) -> dict[str, str]:
    """Some recordings' names and the tags of their windows, in time."""
    rows = [row for file in sorted(tags.glob("runs/*/data/*.parquet")) for row in pq.read_table(file).to_pylist()]
    heard: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: (row["uri"], row["start_s"])):
        name = storage.display(row["uri"]).rsplit("/", 1)[-1]
        heard.setdefault(name, []).append(f"{row['start_s']:.0f} s {row['tag']} {row['probability']:.2f}")
    return {name: ", ".join(said[:6]) for name, said in list(heard.items())[:most]}
