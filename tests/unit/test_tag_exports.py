"""Exports, read back by other libraries."""

import csv
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audioclf import read_ahead, schema, storage, tag_exports
from audioclf.errors import ConfigError

TIME = datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)

ODD = [
    "a, b",
    'say "hi"',
    "two\nlines",
    "cr\rlf\r\n",
    "=1+2",
    "+x",
    "-x",
    "@x",
    "\tx",
    "",
    "é",
    "😀",
    "\u2028",
    "\\",
    "NA",
]


def events(*rows: dict[str, Any]) -> pa.Table:
    filled = {
        "clip_id": "c" * 32, "uri": "s3://b/rec.wav", "start_s": 0.0, "end_s": 1.0, "tag": "Bird", "probability": 0.5,
        "mean_probability": 0.5, "windows": 1,
    }  # fmt: skip
    return pa.Table.from_pylist([{**filled, **row} for row in rows], schema=schema.EVENT)


def written(tables: list[pa.Table], format_: str, folder: Path, **options: Any) -> bytes:
    path = folder / f"out.{format_}"
    tag_exports.write(iter(tables), format_, storage.to_uri(str(path)), **options)
    return path.read_bytes()


def read_csv(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(data.decode().splitlines(keepends=True), strict=True))


def read_json_lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in data.decode().split("\n")[:-1]]


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


row = st.fixed_dictionaries(
    {
        "uri": st.text() | st.sampled_from(ODD),
        "recorded_at": st.none() | st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
        "start_s": st.floats(0, 1e9),
        "end_s": st.floats(0, 1e9),
        "tag": st.text() | st.sampled_from(ODD),
        "mid": st.none() | st.text(min_size=1),
        "probability": st.floats(0, 1, width=32),
        "windows": st.integers(1, 2**31 - 1),
    }
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.lists(row, max_size=4), min_size=1, max_size=3))
def test_rows_are_read_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    tables = [events(*rows) for rows in batches]
    expected = pa.concat_tables(tables).to_pylist()
    for found, known in zip(read_csv(written(tables, "csv", folder)), expected, strict=True):
        assert list(found) == schema.EVENT.names
        for name in ("uri", "tag"):
            assert found[name] == known[name]
        assert found["mid"] == (known["mid"] or "")
        assert found["recorded_at"] == (iso(known["recorded_at"]) or "")
        assert (float(found["start_s"]), float(found["end_s"])) == (known["start_s"], known["end_s"])
        assert np.float32(found["probability"]) == known["probability"]
        assert int(found["windows"]) == known["windows"]
    for found, known in zip(read_json_lines(written(tables, "jsonl", folder)), expected, strict=True):
        assert found == {
            **known,
            "recorded_at": iso(known["recorded_at"]),
            **{name: pytest.approx(known[name], rel=1e-7) for name in ("probability", "mean_probability")},
        }
        assert np.float32(found["probability"]) == known["probability"]


def test_pandas_reads_them(tmp_path: Path) -> None:
    tables = [events(*({"tag": tag, "recorded_at": TIME, "probability": 0.87} for tag in ODD)), events({"mid": "/m/1"})]
    written(tables, "csv", tmp_path)
    written(tables, "jsonl", tmp_path)
    blank = {"keep_default_na": False, "na_values": {"mid": [""]}}  # "NA" is a tag like any other
    frames = [
        pd.read_csv(tmp_path / "out.csv", parse_dates=["recorded_at"], **blank),
        pd.read_json(tmp_path / "out.jsonl", lines=True),
    ]
    for frame in frames:
        assert frame["tag"].tolist() == [*ODD, "Bird"]
        assert frame["probability"].tolist() == [0.87] * len(ODD) + [0.5]  # not 0.8700000047683716
        assert frame["mid"].isna().tolist() == [True] * len(ODD) + [False]
        assert pd.to_datetime(frame["recorded_at"]).tolist()[:2] == [pd.Timestamp(TIME)] * 2


def test_times_have_a_fraction_where_they_need_one(tmp_path: Path) -> None:
    table = events({"recorded_at": TIME}, {"recorded_at": TIME + timedelta(milliseconds=250)}, {})
    assert [found["recorded_at"] for found in read_csv(written([table], "csv", tmp_path))] == [
        "2024-01-31T23:59:59Z", "2024-01-31T23:59:59.250000Z", "",
    ]  # fmt: skip


def test_text_is_utf_8(tmp_path: Path) -> None:
    for format_ in ("csv", "jsonl"):
        assert '"Gebrüll 😀"'.encode() in written([events({"tag": "Gebrüll 😀"})], format_, tmp_path)


def test_tags_are_written_as_events_are(tmp_path: Path) -> None:
    table = schema.TAG.empty_table()
    assert written([table, table], "csv", tmp_path).decode() == ",".join(schema.TAG.names) + "\n"


def test_no_tables_make_an_empty_file_of_the_schema(tmp_path: Path) -> None:
    assert written([], "csv", tmp_path, schema=schema.EVENT).decode() == ",".join(schema.EVENT.names) + "\n"
    assert written([], "jsonl", tmp_path, schema=schema.EVENT) == b""
    rows = events({})
    assert written([rows], "csv", tmp_path, schema=schema.EVENT) == written([rows], "csv", tmp_path)


def test_a_file_appears_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken() -> Iterator[pa.Table]:
        yield events({})
        raise RuntimeError("no more")

    for format_ in ("csv", "jsonl"):
        with pytest.raises(RuntimeError, match="no more"):
            tag_exports.write(broken(), format_, storage.to_uri(str(tmp_path / "x")))
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'xlsx'"):
        written([events({})], "xlsx", tmp_path)


# --- Audacity


def labels(path: Path) -> list[tuple[float, float, str]]:
    """As Audacity reads a file of labels: a line each, of fields with tabs between."""
    found = []
    for line in path.read_bytes().decode().split("\n")[:-1]:
        start, end, text = line.split("\t")
        found.append((float(start), float(end), text))
    return found


def test_a_recording_has_its_labels_over_bounds_of_tables(tmp_path: Path) -> None:
    one, two = {"clip_id": "1" * 32, "uri": "s3://b/x/one.wav"}, {"clip_id": "2" * 32, "uri": "file:///a/t%20wo.flac"}
    tables = [
        events({**one, "start_s": 0.1, "end_s": 2 / 3, "probability": 0.874}, {**one, "tag": "a\tb\nc\r\u2028d"}),
        events({**one, "start_s": 5.0, "end_s": 6.0}, {**two}),
        schema.EVENT.empty_table(),
        events({**two, "tag": "Gebrüll", "probability": 1.0}),
    ]
    assert tag_exports.write_audacity(iter(tables), storage.to_uri(str(tmp_path / "labels"))) == 2
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["one.11111111.txt", "t%20wo.22222222.txt"]
    assert labels(tmp_path / "labels" / "one.11111111.txt") == [
        (0.1, 0.666667, "Bird 0.87"), (0.0, 1.0, "a b c  d 0.50"), (5.0, 6.0, "Bird 0.50"),
    ]  # fmt: skip
    assert labels(tmp_path / "labels" / "t%20wo.22222222.txt") == [(0.0, 1.0, "Bird 0.50"), (0.0, 1.0, "Gebrüll 1.00")]


def test_no_events_make_no_files(tmp_path: Path) -> None:
    assert tag_exports.write_audacity([schema.EVENT.empty_table()], storage.to_uri(str(tmp_path))) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://b/été 1.wav", "%C3%A9t%C3%A9%201.cccccccc.txt"),
        ("file:///a/%C3%A9t%C3%A9%201.wav", "%C3%A9t%C3%A9%201.cccccccc.txt"),
        ("s3://b/100%41.wav", "100%2541.cccccccc.txt"),
        ("file:///a/a~b%FF.tar.gz", "a%7Eb%FF.tar.cccccccc.txt"),
        ("s3://b/no_suffix", "no_suffix.cccccccc.txt"),
        ("s3://b/2024-01-31-birdnet-23:59:59.wav", "2024-01-31-birdnet-23%3A59%3A59.cccccccc.txt"),
        ("s3://b/.hidden.wav", "%2Ehidden.cccccccc.txt"),
        ("s3://b/aux.wav", "%61ux.cccccccc.txt"),
        ("s3://b/auxiliary.wav", "auxiliary.cccccccc.txt"),
        ("s3://b/" + "n" * 200 + ".wav", "n" * 87 + ".cccccccc.txt"),
        ("s3://b/" + "n" * 85 + "é.wav", "n" * 85 + ".cccccccc.txt"),
        ("s3://b/" + "n" * 84 + "é.wav", "n" * 84 + "%C3.cccccccc.txt"),
    ],
)
def test_files_are_named_after_recordings(tmp_path: Path, uri: str, name: str) -> None:
    tag_exports.write_audacity([events({"uri": uri})], storage.to_uri(str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@given(st.text(min_size=1).filter(lambda key: not key.endswith("/")))  # an object so named is a folder's
def test_every_name_is_safe(key: str) -> None:
    name = tag_exports._file_name(f"s3://b/{key}", "0123abcd")
    assert re.fullmatch(r"[A-Za-z0-9_%-][A-Za-z0-9._%-]*\.0123abcd\.txt", name)
    assert len(name) <= 100


def test_recordings_of_one_name_have_a_file_each(tmp_path: Path) -> None:
    clips = ["12345678" + "a" * 24, "12345678" + "b" * 24, "87654321" + "a" * 24]
    table = events(*({"clip_id": clip, "uri": f"s3://b/{i}/rec.wav"} for i, clip in enumerate(clips)))
    assert tag_exports.write_audacity([table], storage.to_uri(str(tmp_path))) == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "rec.12345678.txt", f"rec.12345678{'b' * 24}.txt", "rec.87654321.txt",
    }  # fmt: skip


def test_more_recordings_than_are_written_at_once(tmp_path: Path) -> None:
    n = 5 * read_ahead.AT_ONCE
    table = events(*({"clip_id": f"{i:032d}"[::-1], "tag": f"t{i}"} for i in range(n)))
    assert tag_exports.write_audacity([table], storage.to_uri(str(tmp_path))) == n
    assert {labels(path)[0][2] for path in tmp_path.iterdir()} == {f"t{i} 0.50" for i in range(n)}


def test_on_s3_as_in_a_folder(tmp_path: Path, s3_bucket: str) -> None:
    tables = [events({"uri": "s3://b/été.wav"}, {"uri": "s3://b/été.wav", "tag": "Cat"}), events({"tag": "Dog"})]
    for root in (storage.to_uri(str(tmp_path)), f"s3://{s3_bucket}/exports"):
        tag_exports.write(tables, "jsonl", storage.join(root, "rows.jsonl"))
        assert tag_exports.write_audacity(tables[:1], storage.join(root, "labels")) == 1
    remote = {info.path: storage.read_bytes(info.uri) for info in storage.list_files(f"s3://{s3_bucket}/exports")}
    local = {storage.quote(str(p.relative_to(tmp_path))): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert remote == local
    assert set(local) == {"rows.jsonl", "labels/%25C3%25A9t%25C3%25A9.cccccccc.txt"}
