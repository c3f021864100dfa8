"""AudioSet: segments of YouTube videos, listed in a CSV, whose files are found by their names.

Source: Gemmeke et al., "Audio Set: An ontology and human-labeled dataset for audio events", ICASSP 2017; the formats
of the segment lists, the class list and the ontology are those of its publication.
"""

import csv
import json
import logging
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from audioclf import storage
from audioclf.errors import ConfigError
from audioclf.layouts import lines, make_clip, rows
from audioclf.manifest import Clip
from audioclf.storage import FileInfo

log = logging.getLogger("audioclf")

CLASS_LIST = "class_labels_indices.csv"
ONTOLOGY = "ontology.json"

_ID = re.compile(r"[\w-]{11}", re.ASCII)
_TIMES = re.compile(r"_(\d+(?:\.\d+)?)(?:_(\d+(?:\.\d+)?))?")
"""What follows the id in a file name: start and end, in seconds or milliseconds; or one number."""


class Segment(NamedTuple):
    """A row of the list: the part of a video that was labelled."""

    row: int
    start_s: float
    labels: tuple[str, ...]


class SegmentList:
    """The segments by the id of their video, and which of them files were found for."""

    def __init__(self, text: str, name: str, class_names: dict[str, str]):
        """Read a segment list: YTID, start_seconds, end_seconds, positive_labels; lines with # are comments.

        Args:
            text: of the CSV.
            name: the CSV's, for messages.
            class_names: display names by mid.

        Raises:
            ConfigError: a row is no segment, or names a class that is not known.
        """
        self._name = name
        self._of_id: dict[str, tuple[Segment, ...]] = {}
        self._has_file = bytearray()
        self._unnamed, self._unnamed_example = 0, ""
        label_sets: dict[str, tuple[str, ...]] = {}
        for line, (video_id, start, _, mids) in _segment_rows(text, name):
            if mids not in label_sets:
                label_sets[mids] = tuple(_class_name(mid.strip(), class_names, name, line) for mid in mids.split(","))
            if not _ID.fullmatch(video_id):
                raise ConfigError(f"{name}, line {line}: YTID {video_id!r} is not eleven letters, digits, _ or -")
            others = self._of_id.get(video_id, ())
            segment = Segment(len(self._has_file), _seconds(start, name, line), label_sets[mids])
            if any(segment.start_s == other.start_s for other in others):
                raise ConfigError(f"{name}, line {line}: the segment of {video_id} at {start} s is there twice")
            self._of_id[video_id] = (*others, segment)
            self._has_file.append(False)
        if not self._of_id:
            raise ConfigError(f"{name}: holds no segments")

    def clips(self, files: Iterable[FileInfo]) -> list[Clip]:
        """The clips of those files that are named after a segment; the video is their source.

        Raises:
            ConfigError: a video has several segments, and a file's name does not say which it is.
        """
        clips = []
        for info in files:
            found = self._find(info)
            if found is None:
                self._unnamed += 1
                self._unnamed_example = self._unnamed_example or info.uri
                continue
            video_id, segment = found
            self._has_file[segment.row] = True
            clips.append(make_clip(info, labels=segment.labels, source_id=video_id))
        return clips

    def report(self) -> None:
        """Log the segments without a file and the files without a segment, once all files have been seen.

        Raises:
            ConfigError: no segment has a file.
        """
        found, planned = sum(self._has_file), len(self._has_file)
        example = storage.display(self._unnamed_example)
        if not found:
            raise ConfigError(
                f"{self._name}: none of its {planned:,} segments has a file below --input; names such as "
                f"{example} must begin with the video's id, or with Y and the id"
            )
        log.info("%s: %s of %s segments have a file", self._name, f"{found:,}", f"{planned:,}")
        if found < planned:
            row = self._has_file.index(False)
            missing = next(
                f"{video_id} at {segment.start_s:g} s"
                for video_id, segments in self._of_id.items()
                for segment in segments
                if segment.row == row
            )
            log.warning("%s segments have no file, such as %s", f"{planned - found:,}", missing)
        if self._unnamed:
            log.warning("%s files are left out: no segment names them, such as %s", f"{self._unnamed:,}", example)

    def _find(self, info: FileInfo) -> tuple[str, Segment] | None:
        stem = info.path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        for video_id, rest in _readings(stem):
            segments = self._of_id.get(video_id, ())
            times = _TIMES.fullmatch(rest)
            if times:
                for segment in segments:
                    if any(math.isclose(float(times[1]), segment.start_s * unit) for unit in (1, 1000)):
                        return video_id, segment
                if times[2]:
                    continue  # another part of the video
            if len(segments) == 1:
                return video_id, segments[0]
            if segments:
                raise ConfigError(
                    f"{storage.display(info.uri)}: {video_id} has {len(segments)} segments in {self._name}; the file's "
                    f"name must say which, as {video_id}_{segments[0].start_s:g}"
                )
        return None


def read_segments(metadata: str) -> SegmentList:
    """A segment list, with the class list and, where there is one, the ontology that lie in its folder.

    Args:
        metadata: URI or path of the segment list.

    Raises:
        ConfigError: a file is missing, or not what it should be.
    """
    uri = storage.to_uri(metadata)
    folder = uri.rsplit("/", 1)[0]
    return SegmentList(storage.read_text(uri), metadata, _class_names(folder))


def _class_names(folder: str) -> dict[str, str]:
    """Display names by mid: those of the ontology, and above them those of the class list."""
    uri, ontology_uri = storage.join(folder, CLASS_LIST), storage.join(folder, ONTOLOGY)
    if not storage.exists(uri):
        raise ConfigError(
            f"{storage.display(uri)}: no such file; --layout audioset reads the class list {CLASS_LIST} "
            "(index,mid,display_name) from the folder of --metadata"
        )
    names = _ontology_names(ontology_uri) if storage.exists(ontology_uri) else {}
    shown = storage.display(uri)
    for line, row in rows(storage.read_text(uri), shown):
        try:
            names[row["mid"]] = row["display_name"]
        except KeyError as error:
            raise ConfigError(f"{shown}, line {line}: no column {error.args[0]!r}; it has {', '.join(row)}") from error
    return names


def _ontology_names(uri: str) -> dict[str, str]:
    try:
        return {entry["id"]: entry["name"] for entry in json.loads(storage.read_text(uri))}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{storage.display(uri)}: not a list of classes with id and name: {error!r}") from error


def _segment_rows(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines(text), skipinitialspace=True)
    try:
        for row in reader:
            if not row or row[0].startswith("#") or row[0] == "YTID":
                continue
            if len(row) != 4:
                raise ConfigError(
                    f"{name}, line {reader.line_num}: {len(row)} values, where YTID, start_seconds, end_seconds and "
                    "positive_labels (in quotes, if several) should be"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise ConfigError(f"{name}, line {reader.line_num}: {error}") from error


def _readings(stem: str) -> list[tuple[str, str]]:
    """What a file name may mean, as id and rest: the likelier first, since an id may begin with Y and contain _."""
    readings = []
    for skip in (0, 1) if stem.startswith("Y") else (0,):
        video_id, rest = stem[skip : skip + 11], stem[skip + 11 :]
        if len(video_id) == 11 and (not rest or rest[0] in "_.- "):
            readings.append((video_id, rest))
    return sorted(readings, key=lambda reading: bool(reading[1]) and not _TIMES.fullmatch(reading[1]))


def _class_name(mid: str, class_names: dict[str, str], name: str, line: int) -> str:
    if mid not in class_names:
        raise ConfigError(f"{name}, line {line}: class {mid!r} is neither in {CLASS_LIST} nor in {ONTOLOGY}")
    return class_names[mid]


def _seconds(text: str, name: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{name}, line {line}: start_seconds: {text!r} is not a number of seconds") from error
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}, line {line}: start_seconds: {text} s is not a time in a video")
    return value
