"""When a recording began, by its file's name: what recorders write, zones, and what is no time."""

import pickle
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf.config import ManifestConfig
from audioclf.errors import ConfigError
from audioclf.recording_times import PATTERNS, RecordingTime, parse_time

LAST_SECOND = datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20240131_235959", LAST_SECOND),
        ("20240131235959", LAST_SECOND),
        ("2024-01-31_23h59m59s", LAST_SECOND),
        ("2024-01-31T23:59:59Z", LAST_SECOND),
        ("2024-01-31T23:59:59+02:00", utc(2024, 1, 31, 21, 59, 59)),
        ("20240131T235959-0930", utc(2024, 2, 1, 9, 29, 59)),
        ("2024-01-31", utc(2024, 1, 31)),
        ("20240131_2359", utc(2024, 1, 31, 23, 59)),
        ("2024-01-31T23+02:00", utc(2024, 1, 31, 21)),
        ("2024-01-31T23+02", utc(2024, 1, 31, 21)),
        ("2024-01-31T23:59-05", utc(2024, 2, 1, 4, 59)),
        ("2024-01-31T23-59-05", utc(2024, 1, 31, 23, 59, 5)),
        ("2024-01-31T23:59:59.1234567", utc(2024, 1, 31, 23, 59, 59, 123456)),
        ("20240131_235959_040", utc(2024, 1, 31, 23, 59, 59, 40000)),
        ("2024-02-29 00:00:00", utc(2024, 2, 29)),
    ],
)
def test_times_are_utc(text: str, expected: datetime) -> None:
    assert parse_time(text, "x.wav") == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "20240230_000000",
            "20240131_240000",
            "20241301_000000",
            "20240131_236000",
            "12345",
            "yesterday",
            "00010101+14",
        ),
        # A day's or second's digit is missing; a year of two digits; offsets that no place has
        *(
            "2024013123595",
            "180912071528",
            "1809120715",
            "20240131_235959+9900",
            "20240131_235959+0199",
            "20240131_235959-1430",
        ),
    ],
)
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_time(text, "site/x.wav")
    assert f"'site/x.wav': '{text}' is not a time" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("audiomoth", "20240131_235959.WAV", LAST_SECOND),
        ("audiomoth", "20240131/20240131_235959T.WAV", LAST_SECOND),
        ("audiomoth", "site 7/24F319046044E5A9_20240131_235959.WAV", LAST_SECOND),
        ("audiomoth", "20230101_000000/20240131_235959.WAV", LAST_SECOND),
        # The example of the R package seewave: Friday 10 April 2020 16:54:44 UTC
        ("audiomoth-hex", "a/5E90A4D4.WAV", utc(2020, 4, 10, 16, 54, 44)),
        ("audiomoth-hex", "5e90a4d4.wav", utc(2020, 4, 10, 16, 54, 44)),
        ("audiomoth-hex", "FFFFFFFF.WAV", utc(2106, 2, 7, 6, 28, 15)),
        ("songmeter", "Data/WALDEN_20240131_235959.wav", LAST_SECOND),
        ("songmeter", "S4A01234_20240131_235959_250.wav", utc(2024, 1, 31, 23, 59, 59, 250000)),
        ("songmeter", "SMART_20240131_235959_000040.wav", utc(2024, 1, 31, 23, 59, 59, 40)),
        ("songmeter", "PREFIX_0+1_20240131_235959.wav", LAST_SECOND),
        ("songmeter", "ARIZONA-1_20240131$235959.wav", LAST_SECOND),
        ("swift", "MSD-0001_20240131_235959.wav", LAST_SECOND),
        ("swift", "20240131_235959.wav", LAST_SECOND),
        ("swift", "SW_20240131_235959+0200.wav", utc(2024, 1, 31, 21, 59, 59)),
        ("swift", "SW_20240131_235959-0500.wav", utc(2024, 2, 1, 4, 59, 59)),
        ("swift", "SW_20240131T235959Z.flac", LAST_SECOND),
        ("birdnet-pi", "StreamData/2024-01-31-birdnet-23:59:59.wav", LAST_SECOND),
        ("birdnet-pi", "2024-01-31-birdnet-RTSP_1-23:59:59.wav", LAST_SECOND),
        ("birdnet-pi", "Gray_Wagtail-84-2024-01-31-birdnet-RTSP_12-23:59:59.mp3", LAST_SECOND),
        ("iso", "2024-01-31T23-59-59.wav", LAST_SECOND),
        ("iso", "mic 2024-01-31T23:59:59.wav", LAST_SECOND),
        ("iso", "20240131T235959Z.wav", LAST_SECOND),
        ("iso", "2024-01-31T23-59-59+0200_x.wav", utc(2024, 1, 31, 21, 59, 59)),
        ("iso", "2024-01-31T23:59:59.5-05:00.wav", utc(2024, 2, 1, 4, 59, 59, 500000)),
        ("iso", "2024-01-31T23-59-59.16k.wav", LAST_SECOND),
        ("iso", "2024-01-31T23-59-59.3gp", LAST_SECOND),
    ],
)
def test_recorders_names(name: str, path: str, expected: datetime) -> None:
    assert RecordingTime(name).of(path) == expected


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("audiomoth", "20240131_235959/rec.WAV"),  # a folder's name is not the recording's
        ("audiomoth", "20240131_2359591.WAV"),
        ("audiomoth", "5E90A4D4.WAV"),
        ("audiomoth-hex", "20240131_235959.WAV"),
        ("audiomoth-hex", "5E90A4D4/rec.WAV"),
        ("songmeter", "20240131_235959.wav"),
        ("swift", "SW_20240131_235959-05.wav"),  # five hours behind, or the fifth?
        ("birdnet-pi", "2024-01-31-23:59:59.wav"),
        ("iso", "2024-01-31.wav"),
        ("(x)?rec", "rec.wav"),
    ],
)
def test_other_names_have_no_time(name: str, path: str) -> None:
    assert RecordingTime(name).of(path) is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("audiomoth", "20241331_235959.WAV"), ("songmeter", "A_20240131_235960.wav"),
        ("swift", "20240230_000000.wav"), ("birdnet-pi", "2024-01-32-birdnet-23:59:59.wav"),
        ("iso", "2024-01-31T24-00-00.wav"), (r"_(\d+)\.", "A_99.wav"),
    ],
)  # fmt: skip
def test_a_date_that_is_none_is_named_with_its_file(name: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"--time-regex: ") as caught:
        RecordingTime(name).of(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "local", "expected"),
    [
        ("Europe/Berlin", "20240115_120000", utc(2024, 1, 15, 11)),
        ("Europe/Berlin", "20240715_120000", utc(2024, 7, 15, 10)),
        # Clocks went from 2 to 3 on 31 March, by +01:00 before; from 3 to 2 on 27 October, by +02:00 at first.
        ("Europe/Berlin", "20240331_013000", utc(2024, 3, 31, 0, 30)),
        ("Europe/Berlin", "20240331_023000", utc(2024, 3, 31, 1, 30)),
        ("Europe/Berlin", "20240331_033000", utc(2024, 3, 31, 1, 30)),
        ("Europe/Berlin", "20241027_023000", utc(2024, 10, 27, 0, 30)),
        ("Europe/Berlin", "20241027_030000", utc(2024, 10, 27, 2)),
        # Half an hour back on 7 April, at 2, by +11:00 before
        ("Australia/Lord_Howe", "20240407_014500", utc(2024, 4, 6, 14, 45)),
        ("+05:30", "20240715_120000", utc(2024, 7, 15, 6, 30)),
        ("-0330", "20240715_120000", utc(2024, 7, 15, 15, 30)),
        ("+02", "20240715_120000", utc(2024, 7, 15, 10)),
        ("UTC", "20240715_120000", utc(2024, 7, 15, 12)),
        # An offset of the name's own comes first
        ("Europe/Berlin", "20240715_120000Z", utc(2024, 7, 15, 12)),
        ("+05:30", "20240715_120000-0400", utc(2024, 7, 15, 16)),
    ],
)
def test_zones(zone: str, local: str, expected: datetime) -> None:
    assert RecordingTime("swift", zone).of(f"SW_{local}.wav") == expected
    assert RecordingTime(r"SW_(.+)\.wav", zone).of(f"SW_{local}.wav") == expected


def test_seconds_since_1970_have_no_zone() -> None:
    assert RecordingTime("audiomoth-hex", "Europe/Berlin").of("5E90A4D4.WAV") == utc(2020, 4, 10, 16, 54, 44)


@given(
    moment=st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)),
    offset_min=st.none() | st.integers(-12 * 60, 14 * 60),
    zone_min=st.integers(-12 * 60, 14 * 60),
    date=st.sampled_from(["%Y-%m-%d", "%Y%m%d"]),
    time=st.sampled_from(["%H:%M:%S", "%H-%M-%S", "%H%M%S"]),
    fraction=st.sampled_from(["", ".%f", ",%f"]),
    colon=st.booleans(),
)
def test_iso_times_of_every_form(
    moment: datetime, offset_min: int | None, zone_min: int, date: str, time: str, fraction: str, colon: bool
) -> None:
    def offset(minutes: int, sep: str) -> str:
        return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{sep}{abs(minutes) % 60:02d}"

    if not fraction:
        moment = moment.replace(microsecond=0)
    own = "" if offset_min is None else offset(offset_min, ":" if colon else "")
    path = f"a/mic_{moment.strftime(f'{date}T{time}{fraction}')}{own}.wav"
    expected = moment - timedelta(minutes=zone_min if offset_min is None else offset_min)
    assert RecordingTime("iso", offset(zone_min, ":")).of(path) == expected.replace(tzinfo=UTC)


@given(st.datetimes(datetime(1950, 1, 1), datetime(2037, 1, 1)), st.sampled_from(["Europe/Berlin", "America/St_Johns"]))
def test_a_zone_turns_back_what_it_told(moment: datetime, zone: str) -> None:
    moment = moment.replace(microsecond=0, tzinfo=timezone.utc)  # noqa: UP017
    local = moment.astimezone(zoneinfo.ZoneInfo(zone))
    found = RecordingTime("audiomoth", zone).of(f"{local:%Y%m%d_%H%M%S}.WAV")
    assert found is not None
    # The second of two is taken for the first, whose offset is larger by what the clocks were put back.
    back = local.replace(fold=0).utcoffset()
    assert back is not None
    assert found == local.replace(tzinfo=None, fold=0).replace(tzinfo=UTC) - back


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "Europe", "/etc/passwd", "../etc/passwd", "Europe\0", "+25:00", "+01:60", "-5", "berlin"]
)
def test_a_zone_that_is_none_is_named(zone: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RecordingTime("iso", zone)
    assert f"--time-zone {zone!r}: no such time zone; give a name of the IANA database" in str(caught.value)


def test_a_machine_without_a_database_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    monkeypatch.setattr(zoneinfo, "ZoneInfo", _no_zone)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(ConfigError, match="install the package tzdata"):
        RecordingTime("iso", "Asia/Tokyo-not-asked-before")
    assert RecordingTime("iso").of("2024-01-31T23-59-59.wav") == LAST_SECOND


def _no_zone(name: str) -> None:
    raise zoneinfo.ZoneInfoNotFoundError(name)


def test_a_folder_of_the_database_is_no_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:  # as Python does where the database is a package's
        raise IsADirectoryError(21, "Is a directory", name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", refuse)
    with pytest.raises(ConfigError, match="'America/Indiana': no such time zone"):
        RecordingTime("iso", "America/Indiana")


@pytest.mark.parametrize(("pattern", "says"), [("audiomoht", "needs a group"), ("(", r"'\('"), ("", "needs a group")])
def test_a_pattern_that_is_none_is_told_the_names(pattern: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        RecordingTime(pattern)
    assert ", ".join(PATTERNS) in str(caught.value)


def test_it_travels_to_workers() -> None:
    there = pickle.loads(pickle.dumps(RecordingTime("audiomoth", "Europe/Berlin")))
    assert there.of("20240731_020000.WAV") == utc(2024, 7, 31)


def test_a_zone_is_of_times() -> None:
    def manifest(**flags: Any) -> ManifestConfig:
        return ManifestConfig(input="in", output="m.parquet", **flags)

    with pytest.raises(ConfigError, match="--time-regex"):
        manifest(time_zone="Europe/Berlin")
    assert manifest(time_zone="Europe/Berlin", time_regex="iso").time_zone == "Europe/Berlin"
