"""When a recording began, as its file name tells."""

import functools
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from audioclf.errors import ConfigError

_REST = r"(?!\d|[+-]\d)[^/]*\Z"  # of the file's name: no more digits, nor an offset that would be passed over
_COMPACT = r"\d{8}[-_T$]\d{6}(?:_\d{3}(?:\d{3})?)?(?:Z|\+\d\d(?::?\d\d)?|-\d\d:?\d\d)?"

PATTERNS = {
    # 20240131_235959.WAV, 20240131_235959T.WAV (triggered), 24F319046044E5A9_20240131_235959.WAV (device's number)
    "audiomoth": rf"(?:^|[/_])({_COMPACT}){_REST}",
    # Old firmware: 5E90A4F8.WAV, seconds since 1970 UTC
    "audiomoth-hex": r"(?:^|/)([0-9A-Fa-f]{8})T?\.[^./]*\Z",
    # PREFIX_20240131_235959.wav, PREFIX_0+1_20240131_235959_000.wav; PREFIX_20240131$235959.wav: clock set by GPS
    "songmeter": rf"(?<=[^/]_)({_COMPACT}){_REST}",
    # PREFIX_20240131_235959.wav, 20240131_235959+0200.wav
    "swift": rf"(?:^|[/_])({_COMPACT}){_REST}",
    # 2024-01-31-birdnet-23:59:59.wav, 2024-01-31-birdnet-RTSP_1-23:59:59.wav
    "birdnet-pi": rf"(?<!\d)(\d{{4}}-\d\d-\d\d)-birdnet-(?:RTSP_\d+-)?(\d\d[:_-]?\d\d[:_-]?\d\d){_REST}",
    # 2024-01-31T23-59-59.wav, 20240131T235959.250Z.wav, 2024-01-31T23:59:59+02:00.wav
    "iso": r"(?<!\d)(\d{4}-?\d\d-?\d\d[Tt_ ]\d\d[:-]?\d\d[:-]?\d\d"
    rf"(?:[.,]\d{{1,9}}(?=Z|[^0-9A-Za-z]|\Z))?(?:[Zz]|[+-]\d\d(?::?\d\d)?)?){_REST}",
}
"""Ready patterns by name, on the path of a recording; their groups, joined by T, are the time."""

_HEX = "audiomoth-hex"

_TIME = re.compile(
    r"(?P<year>\d{4})\D?(?P<month>\d\d)\D?(?P<day>\d\d)"
    r"(?:[^\d+]*(?P<hour>\d\d)(?:(?P<between>[^\d+]?)(?P<minute>\d\d)"
    r"(?:(?P=between)(?P<second>\d\d)(?:[._,](?P<fraction>\d{1,9}))?)?)?)?"
    r"\s*(?P<offset>[Zz]|[+-]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_OFFSET = re.compile(r"(?P<sign>[+-])(?P<hours>\d\d)(?::?(?P<minutes>[0-5]\d))?", re.ASCII)
_LARGEST_OFFSET = timedelta(hours=14)


@dataclass(frozen=True)
class RecordingTime:
    """Finds in a recording's path when it began.

    Raises:
        ConfigError: no pattern, or no time zone.
    """

    pattern: str
    """A name of PATTERNS, or a regular expression whose first group is the time: 20240131_235959 and the like, ISO
    8601, or any text with these fourteen digits and no others."""
    zone: str = "UTC"
    """Of times without Z or an offset of their own: a name of the IANA database, as Europe/Berlin, or an offset, as
    +02:00. Where clocks are put back, a time that comes twice is the first of the two; where they are put forward, one
    that does not exist is told by the offset before the change. Times of audiomoth-hex are UTC whatever the zone."""

    def __post_init__(self) -> None:
        _compiled(self.pattern)
        _zone(self.zone)

    def of(self, path: str) -> datetime | None:
        """The time in UTC; None where the pattern does not match.

        Args:
            path: below the input, as a person reads it (storage.unquote).

        Raises:
            ConfigError: what the pattern finds is no time.
        """
        match = _compiled(self.pattern).search(path)
        if match is None or not match[1]:
            return None
        if self.pattern == _HEX:
            return datetime.fromtimestamp(int(match[1], 16), UTC)
        text = "T".join(match.groups()) if self.pattern in PATTERNS else match[1]
        return parse_time(text, path, _zone(self.zone))


def parse_time(text: str, path: str, zone: tzinfo = UTC) -> datetime:
    """The time, in UTC, that a part of a file's name tells.

    Args:
        text: 20240131_235959 and the like, or ISO 8601.
        path: of the file, for messages.
        zone: of a time without Z or an offset of its own.

    Raises:
        ConfigError: it is no time.
    """
    try:
        return _moment(text.strip(), zone)
    except (ValueError, OverflowError) as error:  # the thirteenth month, or the day before the first of the year 1
        raise ConfigError(f"--time-regex: {path!r}: {text!r} is not a time like 20240131_235959") from error


def _moment(text: str, zone: tzinfo) -> datetime:
    """Raises ValueError or OverflowError where it is no time."""
    digits = re.sub(r"\D", "", text)
    match = _TIME.fullmatch(text)
    if match is None and len(digits) == 14:
        match = _TIME.fullmatch(digits)
    # Ten or twelve digits on end may as well begin with a year of two.
    if match is None or (digits == text and len(digits) not in (8, 14)):
        raise ValueError("no time")
    year, month, day, hour, minute, second = (
        int(match[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    microsecond = int((match["fraction"] or "").ljust(6, "0")[:6])
    own = match["offset"]
    moment = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=_offset(own) if own else zone)
    return moment.astimezone(UTC)


def _offset(text: str) -> tzinfo:
    """Raises ValueError where it is no offset from UTC."""
    if text in ("Z", "z"):
        return UTC
    match = _OFFSET.fullmatch(text)
    ahead = match and timedelta(hours=int(match["hours"]), minutes=int(match["minutes"] or 0))
    if match is None or ahead is None or ahead > _LARGEST_OFFSET:
        raise ValueError(f"{text!r} is no offset from UTC")
    return timezone(-ahead if match["sign"] == "-" else ahead)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    names = ", ".join(PATTERNS)
    try:
        compiled = re.compile(PATTERNS.get(pattern, pattern), re.ASCII if pattern in PATTERNS else 0)
    except re.error as error:
        raise ConfigError(f"--time-regex {pattern!r}: {error}; give a regular expression, or one of {names}") from error
    if compiled.groups < 1:
        raise ConfigError(f"--time-regex {pattern!r}: needs a group, (…), around the time, or to be one of {names}")
    return compiled


@functools.cache
def _zone(name: str) -> tzinfo:
    if name in ("UTC", "Z"):
        return UTC  # wherever it is asked, even without a database
    try:
        return _offset(name) if name[:1] in ("+", "-") else zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of the database
        remedy = "give a name of the IANA database, as Europe/Berlin, or an offset, as +02:00"
        if not zoneinfo.available_timezones():
            remedy = "this machine has no database of time zones: install the package tzdata, or give an offset"
        raise ConfigError(f"--time-zone {name!r}: no such time zone; {remedy}") from error
