"""From a listing of files to labelled clips: how collections say what is what."""

import csv
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from audioclf import storage
from audioclf.errors import ConfigError
from audioclf.listing import FileTable, Heartbeat, Listing
from audioclf.manifest import Clip, clip_id
from audioclf.recording_times import RecordingTime
from audioclf.spelling import composed
from audioclf.storage import FileInfo

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".bwf", ".flac", ".ogg", ".oga"),
    *(".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
)

Row = tuple[int, dict[str, str]]
"""Of a metadata file: its line, and its values by column."""


def list_audio(root_uri: str, may_be_empty: bool = False) -> Listing:
    """All audio files below a folder or prefix, sorted by path.

    Args:
        root_uri: where to look.
        may_be_empty: whether to find none is an outcome like others.

    Raises:
        ConfigError: no such place, or nothing in it that looks like audio.
    """
    skipped: Counter[str] = Counter()
    files = FileTable(_audio_files(root_uri, skipped))
    if not len(files) and not may_be_empty:
        found = f"; it holds {skipped.total()} other files" if skipped else ""
        raise ConfigError(
            f"{storage.display(root_uri)}: no audio file below it{found}. "
            f"File names must end in one of {' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return Listing(files, dict(skipped))


def _audio_files(root_uri: str, skipped: Counter[str]) -> Iterator[FileInfo]:
    heartbeat = Heartbeat(storage.display(root_uri), "files found")
    for count, info in enumerate(storage.list_files(root_uri), 1):
        heartbeat.show(count)
        name = info.path.rsplit("/", 1)[-1]
        suffix = "." + name.rsplit(".", 1)[-1].lower() if "." in name else ""
        if suffix in AUDIO_SUFFIXES:
            yield info
        else:
            skipped[suffix] += 1


@dataclass(frozen=True)
class Regexes:
    """Patterns on the path below the input whose first group is the value."""

    label: str | None = None
    fold: str | None = None
    source: str | None = None
    time: str | None = None
    """Or a name of recording_times.PATTERNS."""
    time_zone: str = "UTC"

    @functools.cached_property
    def recording_time(self) -> RecordingTime | None:
        """Raises ConfigError where the pattern or the zone is none."""
        return RecordingTime(self.time, self.time_zone) if self.time else None

    def apply(self, clip: Clip) -> Clip:
        """Fill in what the patterns find.

        Raises:
            ConfigError: a pattern does not match the path, or what it found is no fold or time.
        """
        path = composed(storage.unquote(clip.path))
        changes: dict[str, Any] = {}
        if self.label:
            changes["labels"] = (_first_group("--label-regex", self.label, path),)
        if self.fold:
            changes["fold"] = _integer(_first_group("--fold-regex", self.fold, path), "--fold-regex", path)
        if self.source:
            changes["source_id"] = _first_group("--source-regex", self.source, path)
        if self.recording_time:
            changes["recorded_at"] = self.recording_time.of(path)
            if changes["recorded_at"] is None:
                raise _no_match("--time-regex", self.time, path)
        return replace(clip, **changes) if changes else clip


@functools.cache
def _compiled(flag: str, pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(composed(pattern))
    except re.error as error:
        raise ConfigError(f"{flag} {pattern!r}: {error}") from error
    if compiled.groups < 1:
        raise ConfigError(f"{flag} {pattern!r}: needs a group, (…), around the value")
    return compiled


def _first_group(flag: str, pattern: str, path: str) -> str:
    match = _compiled(flag, pattern).search(path)
    if match is None or not match.group(1):
        raise _no_match(flag, pattern, path)
    return match.group(1)


def _no_match(flag: str, pattern: str | None, path: str) -> ConfigError:
    return ConfigError(f"{flag} {pattern!r} does not match {path!r}")


def _integer(text: str, where: str, what: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {what!r}: {text!r} is not a whole number") from error
    if abs(value) >= 1 << 31:
        raise ConfigError(f"{where}: {what!r}: {text!r} is too large")
    return value


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
        clips.append(make_clip(info, labels=(storage.unquote(label),)))
    return clips


def from_flat(files: Iterable[FileInfo]) -> list[Clip]:
    """Files anywhere below the input, without labels unless a regex finds them."""
    return [make_clip(info) for info in files]


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


def from_table(files: Iterable[FileInfo], metadata: str | Iterable[Row], name: str, layout: TableLayout) -> list[Clip]:
    """The clips of a dataset that comes with a CSV of one row a clip (ESC-50, UrbanSound8K).

    Args:
        files: of a listing.
        metadata: the CSV's text, or some of its rows.
        name: the CSV's, for messages.
        layout: its columns.

    Raises:
        ConfigError: a column is missing, or a row names a file that is not below the input.
    """
    table = FileTable.of(files)
    clips = []
    for line, row in _rows(metadata, name):
        try:
            below = storage.quote(layout.path(row))
            info = next(filter(None, (table.find(prefix + below) for prefix in layout.prefixes)), None)
            if info is None:
                raise ConfigError(f"{name}, line {line}: {below} is not below --input")
            fold = _integer(row[layout.fold], name, layout.fold)
            clips.append(make_clip(info, labels=(row[layout.label],), fold=fold, source_id=row[layout.source]))
        except KeyError as error:
            raise ConfigError(f"{name}: no column {error.args[0]!r}; it has {', '.join(row)}") from error
    return clips


def from_csv(files: Iterable[FileInfo], metadata: str | Iterable[Row], name: str) -> list[Clip]:
    """A CSV of one's own: `path` below the input or `uri`, `labels` (split at ;), and optionally fold, source_id,
    start_s, end_s.

    Args:
        files: of a listing.
        metadata: the CSV's text, or some of its rows.
        name: the CSV's, for messages.

    Raises:
        ConfigError: a column is missing, a value is of the wrong kind, or a file is not below the input.
    """
    table = FileTable.of(files)
    clips = []
    for line, row in _rows(metadata, name):
        where = f"{name}, line {line}"
        if row.get("uri"):
            named = row["uri"]
            info = table.find_uri(storage.to_uri(named))
        elif row.get("path"):
            named = row["path"]
            info = table.find(storage.quote(named))
        else:
            raise ConfigError(
                f"{where}: needs a value in column path (below --input) or uri; the columns, divided by commas, are: "
                f"{', '.join(row)}"
            )
        if info is None:
            raise ConfigError(f"{where}: {named} is not an audio file below --input")
        if "labels" not in row:
            raise ConfigError(f"{name}: no column 'labels'; it has {', '.join(row)}")
        start_s, end_s = _seconds(row.get("start_s"), where), _seconds(row.get("end_s"), where)
        if end_s is not None and end_s <= (start_s or 0):
            raise ConfigError(f"{where}: end_s {row['end_s']} is not after start_s {row.get('start_s') or 0}")
        clips.append(
            make_clip(
                info,
                labels=tuple(label.strip() for label in row["labels"].split(";") if label.strip()),
                fold=_integer(row["fold"], where, "fold") if row.get("fold") else None,
                source_id=row.get("source_id") or "",
                start_s=start_s,
                end_s=end_s,
            )
        )
    return clips


def make_clip(info: FileInfo, **fields: Any) -> Clip:
    """A clip of a listed file, or of a part of it.

    Args:
        info: of a listing.
        fields: of the clip, what the layout knows.
    """
    identity = clip_id(info.path, fields.get("start_s"), fields.get("end_s"))
    fields["labels"] = tuple(map(composed, fields.get("labels", ())))
    return Clip(identity, info.uri, info.size_bytes, info.etag, path=info.path, modified_s=info.modified_s, **fields)


def _seconds(text: str | None, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not a number of seconds") from error
    if not 0 <= value < 1e9:
        raise ConfigError(f"{where}: {text} s is not a time in a file")
    return value


def rows(metadata: str, name: str) -> Iterator[Row]:
    """The rows of a CSV with a header.

    Raises:
        ConfigError: not a table.
    """
    reader = csv.DictReader(lines(metadata))
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"{name}, line {reader.line_num}: not as many values as the header has columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{name}, line {reader.line_num}: {error}") from error


def _rows(metadata: str | Iterable[Row], name: str) -> Iterable[Row]:
    return rows(metadata, name) if isinstance(metadata, str) else metadata


def lines(text: str) -> Iterator[str]:
    """The lines of a text, with their ends, one at a time: a file object of it would be four times as large."""
    start = len(text) - len(text.removeprefix("\ufeff"))
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end
