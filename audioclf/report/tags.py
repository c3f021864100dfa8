"""A run of jobs/tag.py → the sections of its report."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from audioclf import parquet_files, rundir, tag_summary
from audioclf.errors import ConfigError
from audioclf.report.page import Block, Explorer, Facts, Section, Table, bars, name_of
from audioclf.rundir import RunDirectory
from audioclf.tag_results import EVENTS, RECORDINGS, RUN_NAME, TagRun

MOST_EVENTS = 20_000
"""That a page holds: about a megabyte."""
MOST_TAGS, MOST_REJECTS, MOST_RUNS = 30, 50, 30


def sections(run: TagRun, others: list[TagRun]) -> list[Section]:
    """What there is to see of one night.

    Args:
        run: closed.
        others: runs of the same output, the newest last.
    """
    events = parquet_files.read(run.directory.at(EVENTS))
    recordings = parquet_files.read(run.directory.at(RECORDINGS))
    shown = _surest(events)
    note = "Neighbouring windows of one tag are one event; the stronger its colour, the surer."
    if len(shown) < len(events):
        note += f" The surest {len(shown):,} of {len(events):,} events."
    return [
        Section("What was done", [_facts(run, recordings, events)]),
        Section("What was heard", [_explorer(shown)] if len(shown) else [Facts([("tags", "none")])], note),
        Section("Tags", _tags(events), f"The {MOST_TAGS} most frequent." if _n_tags(events) > MOST_TAGS else ""),
        Section("Rejects", _rejects(run.directory)),
        Section("Runs of this output", _runs(others)),
    ]


def closed(runs: list[TagRun], output: RunDirectory) -> list[TagRun]:
    """Those that have ended. Raises ConfigError where none has."""
    found = [run for run in runs if run.is_closed()]
    if not found:
        raise ConfigError(f"{output}: no run of jobs/tag.py has ended here")
    return found


def _facts(run: TagRun, recordings: pa.Table, events: pa.Table) -> Facts:
    summary = rundir.read_json(run.directory.at(rundir.SUMMARY)) or {}
    of_status = Counter(recordings["status"].to_pylist())
    rows = [
        ("began (UTC)", _began(run)),
        ("status", str(summary.get("status", "killed")).replace("_", " ")),
        ("recordings", f"{len(recordings):,}"),
        ("ok", f"{of_status['ok']:,}"),
        ("partial", f"{of_status['partial']:,}"),
        ("rejected", f"{of_status['rejected']:,}"),
        ("sound", f"{recordings['duration_s'].to_numpy().sum():,.0f} s"),
        ("windows", f"{recordings['windows'].to_numpy().sum():,}"),
        ("events", f"{len(events):,}"),
    ]
    if this_run := summary.get("this_run"):
        rows.append(("audio-hours an hour", f"{this_run['audio_h_per_h']:,.0f}"))
        rows.append(("time", f"{this_run['wall_s']:,.0f} s"))
    return Facts(rows)


def _began(run: TagRun) -> str:
    return str(datetime.strptime(run.name, RUN_NAME).replace(microsecond=0))


def _surest(events: pa.Table) -> pa.Table:
    if len(events) > MOST_EVENTS:
        events = events.sort_by([("probability", "descending")]).slice(0, MOST_EVENTS)
    return events.sort_by([("uri", "ascending"), ("start_s", "ascending")])


def _explorer(events: pa.Table) -> Explorer:
    rows = events.select(["uri", "tag", "start_s", "end_s", "probability", "recorded_at"]).to_pylist()
    uris = sorted({row["uri"] for row in rows})
    tags = sorted({row["tag"] for row in rows})
    number = {uri: i for i, uri in enumerate(uris)}, {tag: i for i, tag in enumerate(tags)}
    return Explorer(
        [
            (
                number[0][row["uri"]], number[1][row["tag"]], round(row["start_s"], 2), round(row["end_s"], 2),
                round(row["probability"], 3), _hour(row),
            )
            for row in rows
        ],
        [name_of(uri) for uri in uris],
        tags,
    )  # fmt: skip


def _hour(event: dict[str, Any]) -> int | None:
    """Of the day in which an event began."""
    at = event["recorded_at"]
    return None if at is None else (at + timedelta(seconds=event["start_s"])).hour


def _n_tags(events: pa.Table) -> int:
    return len(events["tag"].unique())


def _tags(events: pa.Table) -> list[Block]:
    if not len(events):
        return []
    seconds = events["end_s"].to_numpy() - events["start_s"].to_numpy()
    grouped = pa.table({"tag": events["tag"], "seconds": seconds}).group_by("tag").aggregate([("seconds", "sum")])
    longest = grouped.sort_by([("seconds_sum", "descending")]).slice(0, MOST_TAGS)
    minutes = np.round(longest["seconds_sum"].to_numpy() / 60, 3).tolist()
    return [bars(longest["tag"].to_pylist(), minutes, "minutes")]


def _rejects(run: RunDirectory) -> list[Block]:
    rejects = tag_summary.read_rejects(run)
    if not len(rejects):
        return [Facts([("rejects", "none")])]
    rows = [(name_of(row["uri"]), row["error"], row["message"]) for row in rejects.slice(0, MOST_REJECTS).to_pylist()]
    more = len(rejects) - len(rows)
    return [
        Table(("recording", "reason", "what is wrong"), rows + ([(f"… and {more:,} more", "", "")] if more else []))
    ]


def _runs(runs: list[TagRun]) -> list[Block]:
    rows = []
    for run in runs[-MOST_RUNS:][::-1]:
        summary = rundir.read_json(run.directory.at(rundir.SUMMARY)) or {"status": "killed", "total": {}}
        total = summary["total"]
        recordings = total.get("recordings", {})
        counts = [str(recordings.get(status, "")) for status in ("ok", "partial", "rejected")]
        rows.append((_began(run), summary["status"].replace("_", " "), *counts, str(total.get("tags", ""))))
    return [Table(("began (UTC)", "status", "ok", "partial", "rejected", "tags"), rows)] if len(rows) > 1 else []
