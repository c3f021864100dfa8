"""Layouts: what people's files look like, and what they get wrong."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pytest

from audioclf import layouts, storage
from audioclf.errors import ConfigError

from .listed import files, info


def test_a_csv_may_name_clips_by_uri() -> None:
    text = "uri,labels\n/in/b c.wav,cat\nfile:///in/a.wav,dog\n"
    clips = layouts.from_csv([info("a.wav"), info("b%20c.wav")], text, "x.csv")
    assert [(c.uri, c.labels) for c in clips] == [
        ("file:///in/b%20c.wav", ("cat",)), ("file:///in/a.wav", ("dog",)),
    ]  # fmt: skip
    in_bucket = [info("a.wav", "s3://bucket/in/a.wav"), info("b%20c.wav", "s3://bucket/in/b c.wav")]
    clips = layouts.from_csv(in_bucket, "uri,labels\ns3://bucket/in/b c.wav,cat\n", "x.csv")
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


def test_folders_are_labels() -> None:
    clips = layouts.from_folders(files("dog/a.wav", "cat%20s/deep/b.wav"))
    assert [clip.labels for clip in clips] == [("dog",), ("cat s",)]
    with pytest.raises(ConfigError, match=r"stray\.wav: lies in no class folder"):
        layouts.from_folders(files("stray.wav"))


def test_regexes_find_label_fold_source_and_time() -> None:
    (clip,) = layouts.from_flat(files("site7/3-1042-B_20240229_235958.wav"))
    clip = layouts.Regexes(r"^(\w+)/", r"/(\d)-", r"/\d-(\d+)-", r"_(\d{8}_\d{6})").apply(clip)
    assert (clip.labels, clip.fold, clip.source_id) == (("site7",), 3, "1042")
    assert clip.recorded_at is not None
    assert clip.recorded_at.isoformat() == "2024-02-29T23:59:58+00:00"


@pytest.mark.parametrize(
    ("regexes", "says"),
    [
        (layouts.Regexes(fold="(x)"), "does not match"),
        (layouts.Regexes(fold="("), "--fold-regex"),
        (layouts.Regexes(label="a"), "needs a group"),
        (layouts.Regexes(fold="^(a)"), "not a whole number"),
        (layouts.Regexes(time="^(a)"), "is not a time"),
    ],
)
def test_a_regex_that_finds_nothing_is_bad_usage(regexes: layouts.Regexes, says: str) -> None:
    (clip,) = layouts.from_flat(files("a/1.wav"))
    with pytest.raises(ConfigError, match=says):
        regexes.apply(clip)


def test_csv_names_clips_by_path_with_labels_folds_and_parts() -> None:
    text = "path,labels,fold,source_id,start_s,end_s\na.wav,dog; cat,2,rec,,\na.wav,,,,1.5,2.5\n"
    first, second = layouts.from_csv(files("a.wav"), text, "x.csv")
    assert (first.labels, first.fold, first.source_id, first.start_s) == (("dog", "cat"), 2, "rec", None)
    assert (second.labels, second.fold, second.start_s, second.end_s) == ((), None, 1.5, 2.5)
    assert first.clip_id != second.clip_id


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,labels\nb.wav,dog\n", "line 2: b.wav is not an audio file below --input"),
        ("path\na.wav\n", "no column 'labels'"),
        ("path,labels,fold\na.wav,dog,two\n", "'two' is not a whole number"),
        ("path,labels,start_s\na.wav,dog,-1\n", "is not a time in a file"),
        ("path,labels,fold\na.wav,dog,3000000000\n", "'3000000000' is too large"),
        ("path,labels,start_s,end_s\na.wav,dog,2,1.5\n", "line 2: end_s 1.5 is not after start_s 2"),
        ("path,labels,start_s,end_s\na.wav,dog,,0\n", "line 2: end_s 0 is not after start_s 0"),
        ("path,labels\na.wav\n", "not as many values"),
        ("name,labels\na.wav,dog\n", "needs a value in column path"),
        ("path;labels\na.wav;dog\n", "divided by commas, are: path;labels"),
    ],
)
def test_a_bad_csv_names_the_line_and_the_field(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        layouts.from_csv(files("a.wav"), text, "x.csv")


def test_esc50_and_urbansound8k_read_their_own_tables() -> None:
    esc = "filename,fold,target,category,esc10,src_file,take\n1-100-A-0.wav,1,0,dog,True,100,A\n"
    (clip,) = layouts.from_table(files("audio/1-100-A-0.wav"), esc, "esc50.csv", layouts.ESC50)
    assert (clip.labels, clip.fold, clip.source_id) == (("dog",), 1, "100")
    urban = "slice_file_name,fsID,start,end,salience,fold,classID,class\n7-3-0-0.wav,7,0,4,1,5,3,dog_bark\n"
    (clip,) = layouts.from_table(files("fold5/7-3-0-0.wav"), urban, "u.csv", layouts.URBANSOUND8K)
    assert (clip.labels, clip.fold, clip.source_id) == (("dog_bark",), 5, "7")
    with pytest.raises(ConfigError, match="no column 'category'"):
        layouts.from_table(files("a.wav"), "filename,fold,src_file\na.wav,1,1\n", "x.csv", layouts.ESC50)


def test_listing_counts_what_is_passed_over(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.flac", "notes.txt", "README"):
        (tmp_path / name).touch()
    listing = layouts.list_audio(storage.to_uri(str(tmp_path)))
    assert [info.path for info in listing.files] == ["a.flac", "b.WAV"]
    assert listing.skipped == {".txt": 1, "": 1}


ONE, TWO = "Tränke", "Tra\u0308nke"
"""The same word as people type it, and as macOS stores it."""


def test_a_table_finds_a_file_whose_name_is_there_in_another_form() -> None:
    for there, named in ((ONE, TWO), (TWO, ONE)):
        listed = [info(storage.quote(f"{there}.wav"))]
        (found,) = layouts.from_csv(listed, f"path,labels\n{named}.wav,dog\n", "x.csv")
        assert found.path == storage.quote(f"{there}.wav")
    both = [info(storage.quote(f"{form}.wav")) for form in (ONE, TWO)]
    found = layouts.from_csv(both, f"path,labels\n{TWO}.wav,dog\n{ONE}.wav,dog\n", "x.csv")
    assert [clip.path for clip in found] == [storage.quote(f"{form}.wav") for form in (TWO, ONE)]


def test_a_label_in_two_forms_is_one_class() -> None:
    in_folders = layouts.from_folders(files(f"{storage.quote(ONE)}/a.wav", f"{storage.quote(TWO)}/b.wav"))
    in_csv = layouts.from_csv(files("a.wav", "b.wav"), f"path,labels\na.wav,{ONE}\nb.wav,{TWO}\n", "x.csv")
    regexes = layouts.Regexes(label=f"({TWO})_")
    flat = layouts.from_flat(files(*(storage.quote(f"{form}_1.wav") for form in (ONE, TWO))))
    by_regex = [regexes.apply(clip) for clip in flat]
    assert {clip.labels for clip in [*in_folders, *in_csv, *by_regex]} == {(ONE,)}
