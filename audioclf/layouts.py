"""From a listing of files to labelled clips: how collections say what is what."""

import csv
import functools
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from audioclf import storage
from audioclf.errors import ConfigError
from audioclf.manifest import Clip, clip_id
from audioclf.storage import FileInfo

AUDIO_SUFFIXES = frozenset(
    [
        ".wav",
        ".wave",
        ".w64",
        ".rf64",
        ".bwf",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
    ]
)


@dataclass
class Listing:
    """The files below an input, and what was passed over, by suffix."""

    files: list[FileInfo] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)


def list_audio(root_uri: str) -> Listing:
    """All audio files below a folder or prefix, sorted by path.

    Raises:
        ConfigError: no such place, or nothing in it that looks like audio.
    """
    listing = Listing()
    for info in storage.list_files(root_uri):
        name = info.path.rsplit("/", 1)[-1]
        suffix = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if suffix in AUDIO_SUFFIXES:
            listing.files.append(info)
        else:
            listing.skipped[suffix] = listing.skipped.get(suffix, 0) + 1
    if not listing.files:
        found = f"; it holds {sum(listing.skipped.values())} other files" if listing.skipped else ""
        raise ConfigError(
            f"{storage.display(root_uri)}: no audio file below it{found}. "
            f"File names must end in one of {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    listing.files.sort(key=lambda info: info.path)
    return listing


@dataclass(frozen=True)
class Regexes:
    """Patterns on the path below the input whose first group is the value."""

    label: str | None = None
    fold: str | None = None
    source: str | None = None
    time: str | None = None

    def apply(self, clip: Clip) -> Clip:
        """Fill in what the patterns find.

        Raises:
            ConfigError: a pattern does not match the path, or what it found is no fold or time.
        """
        path = storage.unquote(clip.path)
        changes: dict[str, Any] = {}
        if self.label:
            changes["labels"] = (_first_group("--label-regex", self.label, path),)
        if self.fold:
            changes["fold"] = _integer(_first_group("--fold-regex", self.fold, path), "--fold-regex", path)
        if self.source:
            changes["source_id"] = _first_group("--source-regex", self.source, path)
        if self.time:
            changes["recorded_at"] = parse_time(_first_group("--time-regex", self.time, path), path)
        return replace(clip, **changes) if changes else clip


def parse_time(text: str, path: str) -> datetime:
    """A UTC time from digits in a file name (20240131_235959 and the like) or from ISO 8601.

    Raises:
        ConfigError: neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            moment = datetime.strptime(re.sub(r"\D", "", text), "%Y%m%d%H%M%S")
        except ValueError as error:
            raise ConfigError(f"--time-regex: {path!r}: {text!r} is not a time like 20240131_235959") from error
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@functools.cache
def _compiled(flag: str, pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{flag} {pattern!r}: {error}") from error
    if compiled.groups < 1:
        raise ConfigError(f"{flag} {pattern!r}: needs a group, (…), around the value")
    return compiled


def _first_group(flag: str, pattern: str, path: str) -> str:
    match = _compiled(flag, pattern).search(path)
    if match is None or not match.group(1):
        raise ConfigError(f"{flag} {pattern!r} does not match {path!r}")
    return match.group(1)


def _integer(text: str, where: str, what: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {what!r}: {text!r} is not a whole number") from error


# --- Layouts: from a listing, and a metadata file for some, to clips


def from_folders(files: Iterable[FileInfo], labelled: bool = False) -> list[Clip]:
    """parent/CLASS/…/clip.wav: the first folder below the input is the label.

    Args:
        files: of a listing.
        labelled: whether a regex sets the labels, so that files outside class folders will do.

    Raises:
        ConfigError: a file lies in the input itself, outside any class folder.
    """
    clips = []
    for info in files:
        label, _, rest = info.path.partition("/")
        if not rest and not labelled:
            raise ConfigError(
                f"{storage.display(info.uri)}: lies in no class folder; move it into one, or use --layout flat"
            )
        clips.append(_clip(info, labels=(storage.unquote(label),)))
    return clips


def from_flat(files: Iterable[FileInfo]) -> list[Clip]:
    """Files anywhere below the input, without labels unless a regex finds them."""
    return [_clip(info) for info in files]


@dataclass(frozen=True)
class TableLayout:
    """How the columns of a metadata file name a clip: the datasets that come with a CSV differ in this alone."""

    path: Callable[[dict[str, str]], str]
    label: str
    fold: str
    source: str
    prefixes: tuple[str, ...] = ("",)
    """Folders below the input in which the files may lie."""


ESC50 = TableLayout(lambda row: row["filename"], "category", "fold", "src_file", ("", "audio/"))
URBANSOUND8K = TableLayout(
    lambda row: f"fold{row['fold']}/{row['slice_file_name']}", "class", "fold", "fsID", ("", "audio/")
)


def from_table(files: Iterable[FileInfo], metadata: str, name: str, layout: TableLayout) -> list[Clip]:
    """The clips of a dataset that comes with a CSV of one row a clip (ESC-50, UrbanSound8K).

    Raises:
        ConfigError: a column is missing, or a row names a file that is not below the input.
    """
    by_path = {info.path: info for info in files}
    clips = []
    for line, row in _rows(metadata, name):
        try:
            below = storage.quote(layout.path(row))
            info = next((by_path[p + below] for p in layout.prefixes if p + below in by_path), None)
            if info is None:
                raise ConfigError(f"{name}, line {line}: {below} is not below --input")
            fold = _integer(row[layout.fold], name, layout.fold)
            clips.append(_clip(info, labels=(row[layout.label],), fold=fold, source_id=row[layout.source]))
        except KeyError as error:
            raise ConfigError(f"{name}: no column {error.args[0]!r}; it has {', '.join(row)}") from error
    return clips


def from_csv(files: Iterable[FileInfo], metadata: str, name: str) -> list[Clip]:
    """A CSV of one's own: `path` below the input or `uri`, `labels` (split at ;), and optionally fold, source_id,
    start_s, end_s.

    Raises:
        ConfigError: a column is missing, a value is of the wrong kind, or a file is not below the input.
    """
    by_path = {info.path: info for info in files}
    by_uri = {info.uri: info for info in by_path.values()}
    clips = []
    for line, row in _rows(metadata, name):
        where = f"{name}, line {line}"
        if row.get("uri"):
            named = row["uri"]
            info = by_uri.get(storage.to_uri(named))
        elif row.get("path"):
            named = row["path"]
            info = by_path.get(storage.quote(named))
        else:
            raise ConfigError(f"{where}: needs a value in column path (below --input) or uri")
        if info is None:
            raise ConfigError(f"{where}: {named} is not an audio file below --input")
        if "labels" not in row:
            raise ConfigError(f"{name}: no column 'labels'; it has {', '.join(row)}")
        clips.append(
            _clip(
                info,
                labels=tuple(label.strip() for label in row["labels"].split(";") if label.strip()),
                fold=_integer(row["fold"], where, "fold") if row.get("fold") else None,
                source_id=row.get("source_id") or "",
                start_s=_seconds(row.get("start_s"), where),
                end_s=_seconds(row.get("end_s"), where),
            )
        )
    return clips


def _clip(info: FileInfo, **fields: Any) -> Clip:
    identity = clip_id(info.path, fields.get("start_s"), fields.get("end_s"))
    return Clip(identity, info.uri, info.size_bytes, info.etag, path=info.path, modified_s=info.modified_s, **fields)


def _seconds(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not a number of seconds") from error
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{where}: {text} s is not a time in a file")
    return value


def _rows(metadata: str, name: str) -> Iterable[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(metadata.removeprefix("\ufeff")))
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"{name}, line {reader.line_num}: not as many values as the header has columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{name}, line {reader.line_num}: {error}") from error


# --- Folds


def deal_folds(clips: list[Clip], n_folds: int, seed: int = 0) -> list[Clip]:
    """Deal sources into folds 1 to n_folds, each class spread evenly; clips of one source stay together.

    Raises:
        ConfigError: fewer sources than folds.
    """
    by_source: defaultdict[str, list[int]] = defaultdict(list)
    for i, clip in enumerate(clips):
        by_source[clip.source_id or clip.clip_id].append(i)
    if len(by_source) < n_folds:
        raise ConfigError(f"--folds {n_folds}: there are only {len(by_source)} sources to deal into folds")
    rng = np.random.default_rng(seed)
    sources = [list(by_source.values())[i] for i in rng.permutation(len(by_source))]
    dealt: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(n_folds))
    fold_sizes = np.zeros(n_folds)
    folds = np.zeros(len(clips), int)
    # The largest first, each to the fold that has the fewest clips of its classes, then the fewest clips.
    for members in sorted(sources, key=len, reverse=True):
        classes = Counter(label for i in members for label in clips[i].labels)
        crowded = sum((count * dealt[label] for label, count in classes.items()), np.zeros(n_folds))
        fold = int(np.lexsort((fold_sizes, crowded))[0])
        for label, count in classes.items():
            dealt[label][fold] += count
        fold_sizes[fold] += len(members)
        folds[members] = fold + 1
    return [replace(clip, fold=int(fold)) for clip, fold in zip(clips, folds, strict=True)]
