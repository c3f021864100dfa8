"""Layouts: what people's files look like, and what they get wrong."""

import itertools
from datetime import UTC, datetime

import pytest

from audioclf import layouts
from audioclf.errors import ConfigError
from audioclf.storage import FileInfo


def info(path: str, uri: str | None = None) -> FileInfo:
    return FileInfo(uri or f"file:///in/{path}", path, 10, "1", 0.0)


def test_a_csv_may_name_clips_by_uri() -> None:
    text = "uri,labels\n/in/b c.wav,cat\nfile:///in/a.wav,dog\n"
    clips = layouts.from_csv([info("a.wav"), info("b%20c.wav")], text, "x.csv")
    assert [(c.uri, c.labels) for c in clips] == [
        ("file:///in/b%20c.wav", ("cat",)), ("file:///in/a.wav", ("dog",)),
    ]  # fmt: skip
    files = [info("a.wav", "s3://bucket/in/a.wav"), info("b%20c.wav", "s3://bucket/in/b c.wav")]
    clips = layouts.from_csv(files, "uri,labels\ns3://bucket/in/b c.wav,cat\n", "x.csv")
    assert [(c.uri, c.labels) for c in clips] == [("s3://bucket/in/b c.wav", ("cat",))]


@pytest.mark.parametrize("uri", ["s3://other/in/a.wav", "s3://bucket/in", "s3://bucket/in/a.wav/b", "/in/a.wav"])
def test_a_uri_elsewhere_is_named(uri: str) -> None:
    with pytest.raises(ConfigError, match=f"line 2: {uri} is not an audio file below --input"):
        layouts.from_csv([info("a.wav", "s3://bucket/in/a.wav")], f"uri,labels\n{uri},dog\n", "x.csv")


def test_a_row_may_have_several_lines() -> None:
    text = 'path,labels\n"a\nb.wav","dog\n"\nc.wav,cat\n\nd.wav\n'
    found = layouts.rows(text, "x.csv")
    assert list(itertools.islice(found, 2)) == [
        (4, {"path": "a\nb.wav", "labels": "dog\n"}), (5, {"path": "c.wav", "labels": "cat"}),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"x\.csv, line 7: not as many values"):
        next(found)


def test_a_csv_of_a_spreadsheet_has_a_byte_order_mark_and_quotes() -> None:
    text = '\ufeffpath,labels\r\n"a, b.wav","dog;cat"\r\n'
    (found,) = layouts.from_csv([info("a%2C%20b.wav")], text, "x.csv")
    assert found.labels == ("dog", "cat")


def test_a_csv_that_python_cannot_parse_is_bad_usage() -> None:
    with pytest.raises(ConfigError, match=r"x\.csv"):
        layouts.from_csv([info("a.wav")], "path,labels\ra.wav,dog\r", "x.csv")  # line ends of an old Mac


@pytest.mark.parametrize("value", ["nan", "inf", "-0.5", "one"])
def test_a_part_begins_at_a_time_in_the_file(value: str) -> None:
    with pytest.raises(ConfigError, match="line 2"):
        layouts.from_csv([info("a.wav")], f"path,labels,start_s\na.wav,dog,{value}\n", "x.csv")


def test_labels_found_by_regex_need_no_class_folder() -> None:
    (found,) = layouts.from_folders([info("dog_1.wav")], labelled=True)
    assert layouts.Regexes(label=r"^([a-z]+)_").apply(found).labels == ("dog",)


def test_a_regex_sees_the_name_as_a_person_does() -> None:
    (found,) = layouts.from_flat([info("caf%C3%A9%20noir/1.wav")])
    assert layouts.Regexes(label="^(.+)/").apply(found).labels == ("café noir",)


def test_times_are_of_a_zone_or_of_a_ready_pattern() -> None:
    (found,) = layouts.from_flat([info("a%20b/MOTH_20240731_020000.WAV")])
    clip = layouts.Regexes(time="audiomoth", time_zone="Europe/Berlin").apply(found)
    assert clip.recorded_at == datetime(2024, 7, 31, tzinfo=UTC)
    with pytest.raises(ConfigError, match=r"--time-regex 'birdnet-pi' does not match 'a b/MOTH_20240731_020000\.WAV'"):
        layouts.Regexes(time="birdnet-pi").apply(found)


@pytest.mark.parametrize(("time", "zone", "says"), [("iso", "Mars/Base", "--time-zone"), ("audiomoht", "UTC", "group")])
def test_a_wrong_zone_or_pattern_needs_no_clip_to_be_told(time: str, zone: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _ = layouts.Regexes(time=time, time_zone=zone).recording_time
