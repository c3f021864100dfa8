"""A run of jobs/extract.py → the sections of its report."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow.compute as pc

from audioclf import fetch, manifest, parquet_files, read_ahead, row_sound, rundir, shards, storage
from audioclf.audio import recording
from audioclf.audio.pcm import Pcm
from audioclf.errors import AudioclfError, ClipError
from audioclf.report import media
from audioclf.report.media import SoundSource
from audioclf.report.page import Chart, Facts, Section, Sound, Sounds, Table, bars, name_of
from audioclf.row_sound import RowSounds
from audioclf.rundir import RunDirectory

FILES_SAMPLED = 200
"""Shards that are looked into, evenly spread over the run."""
HEADERS_SAMPLED = 200
CLASSES_SHOWN, CLIPS_SHOWN, COPIES_SHOWN = 40, 6, 4
EXAMPLES_OF_REASON = 3
REJECTS_SAMPLED = 5_000
BINS, SHARDS_IN_BIN = 40, 8

ROW_COLUMNS = [*row_sound.ROW_COLUMNS, "uri", "labels", "valid_frames"]


def sections(directory: RunDirectory) -> list[Section]:
    """What there is to see of an extraction, finished or not.

    Raises:
        ConfigError: it has not written anything yet.
    """
    made = cast(dict[str, Any], rundir.read_json(directory.at(rundir.CONFIG)))
    summary = rundir.read_json(directory.at(rundir.SUMMARY))
    committed = shards.committed_files(directory.uri)
    files = _evenly(committed, FILES_SAMPLED)
    rows = [row for table in read_ahead.each(_rows, files) for row in table]
    return [
        Section("What was done", [_facts(made, summary)], _state(summary)),
        Section("Rate", _rate(directory), "Segments in the shards that appeared in each part of the run's time."),
        Section("Clips", [*_classes(rows), *_durations(rows, made)], _sampled(len(files), len(committed))),
        Section("Files", _formats(made), f"Headers of up to {HEADERS_SAMPLED} files of the manifest."),
        Section("Rejects", _rejects(directory, summary)),
        Section("Some clips and their copies", _sounds(directory, rows), _sounds_note(rows)),
    ]


def _facts(made: dict[str, Any], summary: dict[str, Any] | None) -> Facts:
    front_end = made["binding"]["front_end"]
    rows = [("front end", front_end["name"]), ("segment", f"{made['binding']['segment_s']:.3g} s")]
    if sets := made["binding"]["augment"]:
        rows.append(("augmented by", ", ".join(sets)))
    if summary is None:
        return Facts(rows)
    total, run = summary["total"], summary["this_run"]
    clips = total["clips"]
    return Facts([
        ("status", summary["status"].replace("_", " ")),
        ("clips planned", f"{clips['planned']:,}"),
        ("ok", f"{clips['ok']:,}"),
        ("partial", f"{clips['partial']:,}"),
        ("rejected", f"{clips['rejected']:,}"),
        ("sound", f"{total['audio_s'] / 3600:,.2f} h"),
        ("segments written", f"{total['segments']['written']:,}"),
        ("copies written", f"{total['copies']['written']:,}"),
        ("read", f"{total['bytes'] / 1e9:,.2f} GB"),
        ("last run: clips a second", f"{run['clips_per_s']:,.0f}"),
        ("last run: audio-hours an hour", f"{run['audio_h_per_h']:,.0f}"),
        ("last run: time", f"{run['wall_s']:,.0f} s, {run['fixed_s']:.0f} s to the first unit"),
        *rows,
    ])  # fmt: skip


def _state(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "The run has not ended: this is what it had committed when the report was made."
    same = summary["total"]["same_audio_in_different_folds"]["groups"]
    return f"{same:,} recordings lie in several folds as the same sound." if same else ""


def _sampled(looked_into: int, all_: int) -> str:
    return f"From {looked_into:,} of {all_:,} shards, evenly spread." if looked_into < all_ else ""


def _rows(uri: str) -> list[dict[str, Any]]:
    return [{**row, "file": uri} for row in parquet_files.read(uri, ROW_COLUMNS).to_pylist()]


def _rate(directory: RunDirectory) -> list[Chart]:
    found = storage.names_in(directory.at(rundir.DATA)).values()
    when = np.sort([info.modified_s for info in found])
    if len(when) < 4 * SHARDS_IN_BIN or when[-1] == when[0]:
        return []
    sample = _evenly([info.uri for info in sorted(found, key=lambda info: info.path)], FILES_SAMPLED)
    per_file = float(np.mean([counts["segments"] for _, counts in read_ahead.each(_counts, sample)]))
    # Some shards in each bin, or the line shows when they happened to end.
    counts, edges = np.histogram(when - when[0], bins=max(1, min(BINS, len(when) // SHARDS_IN_BIN)))
    name, unit_s = ("minutes", 60) if when[-1] - when[0] > 180 else ("seconds", 1)
    middles = (edges[:-1] + edges[1:]) / 2 / unit_s
    rates = counts * per_file / np.diff(edges)
    trace = {"type": "scatter", "mode": "lines", "fill": "tozeroy", "x": middles.tolist(), "y": rates.tolist()}
    layout = {
        "xaxis": {"title": {"text": f"{name} since the first shard"}},
        "yaxis": {"title": {"text": "segments a second"}, "rangemode": "tozero"},
    }
    return [Chart([trace], layout, 260)]


def _counts(uri: str) -> tuple[Any, dict[str, Any]]:
    return shards.read_unit(uri, [])


def _classes(rows: Sequence[dict[str, Any]]) -> list[Chart]:
    of_class = Counter(label for row in _originals(rows) if row["segment_index"] == 0 for label in row["labels"])
    if not of_class:
        return []
    labels, counts = zip(*of_class.most_common(CLASSES_SHOWN), strict=True)
    return [bars(labels, counts, "clips", "Clips of each class")]


def _durations(rows: Sequence[dict[str, Any]], made: dict[str, Any]) -> list[Chart]:
    """Seconds of sound of each clip, from the frames of its segments that are no padding."""
    front_end = made["binding"]["front_end"]
    frame_s = front_end.get("hop_length", 1) / front_end["sample_rate"]
    of_clip: defaultdict[str, float] = defaultdict(float)
    for row in _originals(rows):
        of_clip[row["clip_id"]] += row["valid_frames"] * frame_s
    if not of_clip:
        return []
    trace = {"type": "histogram", "x": [round(seconds, 3) for seconds in of_clip.values()], "nbinsx": 40}
    layout = {"xaxis": {"title": {"text": "seconds"}}, "yaxis": {"title": {"text": "clips"}}}
    return [Chart([trace], layout, 240, "How long they are, as far as they were written")]


def _originals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["copy_index"] == 0]


def _formats(made: dict[str, Any]) -> list[Table | Facts]:
    """Sample rates and channels, from headers; nothing where the files are out of reach."""
    try:
        uris = manifest.read(storage.to_uri(made["flags"]["manifest"]), ["uri"]).table["uri"]
        at = np.unique(np.linspace(0, len(uris) - 1, min(len(uris), HEADERS_SAMPLED)).astype(int))
        infos = list(read_ahead.each(_probe, uris.take(at).to_pylist()))
    except AudioclfError as error:
        return [Facts([("not looked at", str(error))])]
    found = Counter((info.sample_rate, info.channels) for info in infos if info)
    rows = [(f"{rate:,} Hz", str(channels), f"{count:,}") for (rate, channels), count in found.most_common()]
    if unread := sum(info is None for info in infos):
        rows.append(("can't be read", "", f"{unread:,}"))
    return [Table(("sample rate", "channels", "files"), rows)]


def _probe(uri: str) -> recording.AudioInfo | None:
    try:
        return fetch.probe(uri)
    except ClipError:
        return None


def _rejects(directory: RunDirectory, summary: dict[str, Any] | None) -> list[Table | Facts]:
    examples: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    seen = Counter[str]()
    for table in read_ahead.each(parquet_files.read, directory.committed_rejects()):
        for row in table.to_pylist():
            seen[row["error"]] += 1
            if len(examples[row["error"]]) < EXAMPLES_OF_REASON:
                examples[row["error"]].append(row)
        if seen.total() >= REJECTS_SAMPLED:
            break
    if not seen:
        return [Facts([("rejects", "none")])]
    counts = Counter(summary["total"]["rejects_by_reason"]) if summary else seen
    return [
        Table(
            ("reason", "rows", "for example", "what is wrong"),
            [
                (reason if i == 0 else "", f"{counts[reason]:,}" if i == 0 else "", name_of(row["uri"]), row["message"])
                for reason, _ in counts.most_common()
                for i, row in enumerate(examples[reason] or [NOT_LOOKED_INTO])
            ],
        )
    ]


NOT_LOOKED_INTO = {"uri": "", "message": f"none among the first {REJECTS_SAMPLED:,} rejects"}


def _sounds(directory: RunDirectory, rows: Sequence[dict[str, Any]]) -> list[Sounds]:
    """Clips of different classes, each beside its copies."""
    sounds = RowSounds(directory)
    shown = _shown(rows)
    with contextlib.suppress(AudioclfError):  # told beside each sound that can't be had
        sounds.look_up(shown)
    lines, source = [], SoundSource()
    for clip in shown:
        first = min((row for row in rows if row["clip_id"] == clip), key=lambda row: row["segment_index"])
        of_segment = [row for row in rows if row["clip_id"] == clip and row["segment_index"] == first["segment_index"]]
        of_segment.sort(key=lambda row: row["copy_index"])
        lines.append([_sound(row, sounds, source) for row in _evenly(of_segment, COPIES_SHOWN)])
    if not lines:
        return []
    if all(len(line) == 1 for line in lines):
        return [Sounds([line[0] for line in lines])]
    return [Sounds(line) for line in lines]


def _shown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A clip of each class in turn, until there are enough."""
    of_class: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in _originals(rows):
        clips = of_class[tuple(row["labels"])]
        if row["clip_id"] not in clips and len(clips) < CLIPS_SHOWN:
            clips.append(row["clip_id"])
    classes = _evenly(sorted(of_class), CLIPS_SHOWN)
    in_turn = [of_class[name][i] for i in range(CLIPS_SHOWN) for name in classes if i < len(of_class[name])]
    return in_turn[:CLIPS_SHOWN]


def _sounds_note(rows: Sequence[dict[str, Any]]) -> str:
    if len({row["transform_set"] for row in rows}) <= 1:
        return "Pictures are those in the shards; sounds are decoded anew, the first ten seconds."
    return (
        "The first of each line is the original. Pictures are those in the shards; sounds are made anew from the "
        "recording and the parameters in the row, the first ten seconds."
    )


def _sound(row: dict[str, Any], sounds: RowSounds, source: SoundSource) -> Sound:
    """A row with its picture, and its sound if the recording can still be had."""
    copy = row["transform_set"] if row["copy_index"] else "original"
    lines = [f"{', '.join(row['labels']) or 'no label'}; {copy}"]
    if row["copy_index"]:
        lines.append(row["transform_params"])
    front_end = sounds.front_end
    try:
        samples = source.get(partial(sounds.samples, row))
    except AudioclfError as error:  # of rubberband too, which need not be on the machine where one looks
        return Sound(name_of(row["uri"]), [*lines, f"no sound: {error}"], _picture(row))
    seen = media.picture_of(samples, front_end.sample_rate) if isinstance(front_end, Pcm) else _picture(row)
    return Sound(name_of(row["uri"]), lines, seen, media.audio(samples, front_end.sample_rate))


def _picture(row: dict[str, Any]) -> str | None:
    """That in the shard; None of waveforms."""
    with parquet_files.opened(row["file"]) as file:
        form = shards.Form.of(file.schema_arrow, row["file"])
        if isinstance(form.front_end, Pcm):
            return None
        table = file.read(["clip_id", "segment_index", "copy_index", form.front_end.column])
    for name in ("clip_id", "segment_index", "copy_index"):
        table = table.filter(pc.field(name) == row[name])
    pixels = shards.to_pictures(table[form.front_end.column], form.shape, form.front_end.dtype)[0]
    return media.picture(pixels[:, : row["valid_frames"]])


def _evenly(items: Sequence[Any], most: int) -> list[Any]:
    """So many of them, from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]
