"""Layouts and folds: properties, and what people's files get wrong."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from audioclf import layouts, manifest
from audioclf.errors import ConfigError
from audioclf.manifest import Clip
from audioclf.storage import FileInfo


def info(path: str, uri: str | None = None) -> FileInfo:
    return FileInfo(uri or f"file:///in/{path}", path, 10, "1", 0.0)


def clip(name: str, label: str, source: str = "") -> Clip:
    return Clip(name, f"file:///{name}", 10, "1", labels=(label,), source_id=source)


@settings(deadline=None)  # the first call imports scikit-learn
@given(
    sources=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4)),  # class, clips
        min_size=6,
        max_size=30,
    ),
    n_folds=st.integers(2, 4),
    seed=st.integers(0, 3),
)
def test_dealt_folds_keep_sources_together_and_clips_in_order(
    sources: list[tuple[str, int]], n_folds: int, seed: int
) -> None:
    clips = [clip(f"{s}-{i}", label, f"source{s}") for s, (label, n) in enumerate(sources) for i in range(n)]
    assume(min(Counter(c.labels for c in clips).values()) >= n_folds)  # rarer classes: below
    dealt = layouts.deal_folds(clips, n_folds, seed)
    assert [c.clip_id for c in dealt] == [c.clip_id for c in clips]
    assert {c.fold for c in dealt} == set(range(1, n_folds + 1))
    manifest.check(dealt)
    folds = {(c.source_id, c.fold) for c in dealt}
    assert len(folds) == len(sources)
    assert layouts.deal_folds(clips, n_folds, seed) == dealt


def test_classes_rarer_than_folds_are_dealt_too() -> None:
    """Two clips of each of five classes into three folds: never both into one."""
    clips = [clip(f"{label}{i}", label) for label in "abcde" for i in range(2)]
    dealt = layouts.deal_folds(clips, 3)
    assert {c.fold for c in dealt} == {1, 2, 3}
    assert all(first.fold != second.fold for first, second in zip(dealt[::2], dealt[1::2], strict=True))


def test_one_class_rarer_than_folds_disturbs_nobody() -> None:
    dealt = layouts.deal_folds([clip(f"a{i}", "a") for i in range(9)] + [clip("b", "b")], 3)
    assert [sum(c.fold == fold and c.labels == ("a",) for c in dealt) for fold in (1, 2, 3)] == [3, 3, 3]


def test_dealing_does_not_look_at_where_clips_lie() -> None:
    here = [clip(f"{label}{i}", label) for label in "ab" for i in range(6)]
    there = [Clip(c.clip_id, f"s3://b/{c.clip_id}", 10, "e", labels=c.labels) for c in here]
    assert [c.fold for c in layouts.deal_folds(here, 3)] == [c.fold for c in layouts.deal_folds(there, 3)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20240131_235959", datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("2024-01-31T23:59:59Z", datetime(2024, 1, 31, 23, 59, 59, tzinfo=UTC)),
        ("2024-01-31T23:59:59+02:00", datetime(2024, 1, 31, 21, 59, 59, tzinfo=UTC)),
        ("2024-01-31", datetime(2024, 1, 31, tzinfo=UTC)),
        ("2024-01-31T23+02:00", datetime(2024, 1, 31, 21, tzinfo=UTC)),
    ],
)
def test_times_are_utc(text: str, expected: datetime) -> None:
    assert layouts.parse_time(text, "x.wav") == expected


@pytest.mark.parametrize("text", ["20240230_000000", "20240131_240000", "12345", "yesterday"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"'site/x\.wav': '{text}' is not a time"):
        layouts.parse_time(text, "site/x.wav")


def test_a_csv_may_name_clips_by_uri() -> None:
    files = [info("a.wav", "s3://bucket/in/a.wav"), info("b%20c.wav")]
    text = "uri,labels\ns3://bucket/in/a.wav,dog\n/in/b c.wav,cat\n"
    clips = layouts.from_csv(files, text, "x.csv")
    assert [(c.uri, c.labels) for c in clips] == [
        ("s3://bucket/in/a.wav", ("dog",)), ("file:///in/b%20c.wav", ("cat",)),
    ]  # fmt: skip


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
