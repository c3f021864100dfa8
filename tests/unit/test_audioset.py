"""AudioSet: the published lists, and files as people name them."""

import logging
from pathlib import Path

import pytest

from audioclf import audioset, layouts, storage
from audioclf.audioset import SegmentList
from audioclf.errors import ConfigError
from audioclf.storage import FileInfo

CLASS_NAMES = {"/m/a": "Dog", "/m/b": "Cat, meowing", "/t/c": "Rain"}


def info(path: str) -> FileInfo:
    return FileInfo(f"file:///in/{path}", path, 10, "1", 0.0)


def segments(*lines: str) -> SegmentList:
    return SegmentList("\n".join(lines), "x.csv", CLASS_NAMES)


def labels_of(of: SegmentList, *paths: str) -> dict[str, tuple[str, ...]]:
    return {clip.path: clip.labels for clip in of.clips(map(info, paths))}


def write_lists(folder: Path, segments: str, ontology: str | None = None) -> str:
    (folder / "segments.csv").write_text(segments)
    (folder / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/a,"Dog"\n1,/m/b,"Cat, meowing"\n')
    if ontology is not None:
        (folder / "ontology.json").write_text(ontology)
    return str(folder / "segments.csv")


@pytest.mark.parametrize(
    ("name", "n_segments"),
    [("eval_segments.csv", 20_371), ("balanced_train_segments.csv", 22_160)],
)
def test_the_published_lists_are_read(
    shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, n_segments: int
) -> None:
    ids = [line.split(",")[0] for line in (shared / "data/audioset" / name).read_text().splitlines() if line[0] != "#"]
    assert len(ids) == n_segments
    stems = [stem for i in ids[:20] for stem in (i, f"Y{i}")] + ids[-20:]
    for i, stem in enumerate(stems):
        path = tmp_path / f"part{i % 3}" / f"{stem}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"RIFF")
    of = audioset.read_segments(str(shared / "data/audioset" / name))
    clips = of.clips(layouts.list_audio(storage.to_uri(str(tmp_path))).files)
    assert sorted(Path(clip.path).stem for clip in clips) == sorted(stems)
    assert {clip.source_id for clip in clips} == {*ids[:20], *ids[-20:]}
    with caplog.at_level(logging.INFO):
        of.report()
    assert f"40 of {n_segments:,} segments have a file" in caplog.text
    assert f"{n_segments - 40:,} segments have no file, such as {ids[20]} at" in caplog.text


def test_labels_are_display_names(shared: Path) -> None:
    of = audioset.read_segments(str(shared / "data/audioset/eval_segments.csv"))
    assert labels_of(of, "--4gqARaEJE.wav", "--BfvyPmVMo.wav") == {  # looked up in the class list
        "--4gqARaEJE.wav": ("Domestic animals, pets", "Squeak", "Dog", "Animal"),
        "--BfvyPmVMo.wav": ("Hammer",),
    }


@pytest.mark.parametrize("suffix", ["", "_30000_40000", "_30.000_40.000", "_30_40", "_30", "_000030", ".mono"])
@pytest.mark.parametrize("prefix", ["", "Y", "train/", "deep/er/Y"])
def test_files_are_found_by_the_id_in_their_names(prefix: str, suffix: str) -> None:
    path = f"{prefix}ab_-Y012xyz{suffix}.wav"
    (clip,) = segments("ab_-Y012xyz,30,40,/m/a").clips([info(path)])
    assert (clip.path, clip.source_id, clip.labels) == (path, "ab_-Y012xyz", ("Dog",))
    assert (clip.start_s, clip.end_s) == (None, None)  # the file is the segment


@pytest.mark.parametrize(
    ("stem", "listed", "expected"),
    [
        ("Yabcdefghij", ["Yabcdefghij"], "Yabcdefghij"),
        ("YYabcdefghij", ["Yabcdefghij"], "Yabcdefghij"),
        ("Yabcdefghij_", ["Yabcdefghij"], "Yabcdefghij"),
        ("Yabcdefghij_", ["abcdefghij_"], "abcdefghij_"),
        ("Yabcdefghij_", ["Yabcdefghij", "abcdefghij_"], "abcdefghij_"),  # which leaves nothing unexplained
        ("Yabcdefghij__0_10", ["Yabcdefghij", "abcdefghij_"], "abcdefghij_"),
        ("Yabcdefghij_0_10", ["Yabcdefghij", "abcdefghij_"], "Yabcdefghij"),
        ("abcdefghij__0_10", ["abcdefghij_"], "abcdefghij_"),
        ("abcdefghijk", ["bcdefghijkl"], None),
        ("abcdefghijkl", ["abcdefghijk"], None),
        ("abc", ["abcdefghijk"], None),
        ("Yabcdefghijk_5_15", ["abcdefghijk"], None),  # another part of the video
    ],
)
def test_an_id_may_begin_with_y_and_end_with_an_underscore(stem: str, listed: list[str], expected: str | None) -> None:
    clips = segments(*(f"{video_id},0,10,/m/a" for video_id in listed)).clips([info(f"{stem}.wav")])
    assert [clip.source_id for clip in clips] == ([expected] if expected else [])


def test_several_segments_of_a_video_are_told_apart_by_their_times() -> None:
    of = segments("abcdefghijk,0,10,/m/a", "abcdefghijk,30,40,/m/b")
    found = labels_of(of, "abcdefghijk_0_10.wav", "Yabcdefghijk_30000_40000.wav", "abcdefghijk_50_60.wav")
    assert found == {"abcdefghijk_0_10.wav": ("Dog",), "Yabcdefghijk_30000_40000.wav": ("Cat, meowing",)}
    with pytest.raises(ConfigError, match=r"/in/abcdefghijk\.wav: abcdefghijk has 2 segments in x\.csv"):
        of.clips([info("abcdefghijk.wav")])


def test_lists_of_the_original_format_have_spaces_after_commas() -> None:
    of = segments("# created", "# YTID, start_seconds", 'abcdefghijk, 30.000, 40.000, "/m/a,/m/b"', "")
    assert labels_of(of, "abcdefghijk_30.000_40.000.flac") == {
        "abcdefghijk_30.000_40.000.flac": ("Dog", "Cat, meowing")
    }


def test_what_is_missing_and_what_is_over_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    of = segments("abcdefghijk,0,10,/m/a", "bcdefghijkl,30,40,/m/a")
    of.clips([info("notes.wav"), info("abcdefghijk.wav")])
    of.clips([info("z.wav")])
    with caplog.at_level(logging.INFO):
        of.report()
    assert [record.getMessage() for record in caplog.records] == [
        "x.csv: 1 of 2 segments have a file",
        "1 segments have no file, such as bcdefghijkl at 30 s",
        "2 files are left out: no segment names them, such as /in/notes.wav",
    ]


def test_a_list_of_other_files_is_bad_usage() -> None:
    of = segments("abcdefghijk,0,10,/m/a")
    of.clips([info("dog.wav")])
    with pytest.raises(ConfigError, match=r"x\.csv: none of its 1 segments has a file below --input; .*/in/dog\.wav"):
        of.report()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('abcdefghijk,0,10,"/m/a,/m/none"', "line 2: class '/m/none' is neither in class_labels_indices.csv nor"),
        ("abcdefghijk,0,10,/m/a,/m/b", "line 2: 5 values"),
        ("abcdefghijk,0,10", "line 2: 3 values"),
        ("abc,0,10,/m/a", "line 2: YTID 'abc' is not eleven"),
        ("abcdefghijk,zero,10,/m/a", "line 2: start_seconds: 'zero' is not a number"),
        ("abcdefghijk,nan,10,/m/a", "line 2: start_seconds: nan s is not a time"),
        ("bcdefghijkl,0.0,10,/m/b", "line 2: the segment of bcdefghijkl at 0.0 s is there twice"),
    ],
)
def test_a_bad_list_names_the_line(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"x\.csv, {says}"):
        segments("bcdefghijkl,0,10,/m/a", line)


def test_a_list_of_nothing_is_bad_usage() -> None:
    with pytest.raises(ConfigError, match=r"x\.csv: holds no segments"):
        segments("# nothing")


def test_the_class_list_comes_before_the_ontology(tmp_path: Path) -> None:
    ontology = '[{"id": "/m/a", "name": "not this"}, {"id": "/m/parent", "name": "Animal"}]'
    metadata = write_lists(tmp_path, 'abcdefghijk,0,10,"/m/a,/m/parent"', ontology)
    assert labels_of(audioset.read_segments(metadata), "abcdefghijk.wav") == {"abcdefghijk.wav": ("Dog", "Animal")}
    (tmp_path / "ontology.json").unlink()
    with pytest.raises(ConfigError, match=r"segments\.csv, line 1: class '/m/parent'"):
        audioset.read_segments(metadata)


def test_lists_may_lie_in_a_bucket(s3_bucket: str, tmp_path: Path) -> None:
    write_lists(tmp_path, "abcdefghijk,0,10,/m/a")
    for name in ("segments.csv", "class_labels_indices.csv"):
        storage.write_bytes(f"s3://{s3_bucket}/lists/{name}", (tmp_path / name).read_bytes())
    of = audioset.read_segments(f"s3://{s3_bucket}/lists/segments.csv")
    assert labels_of(of, "abcdefghijk.wav") == {"abcdefghijk.wav": ("Dog",)}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("class_labels_indices.csv", None, "class_labels_indices.csv: no such file; .* from the folder of --metadata"),
        ("class_labels_indices.csv", "mid,name\n/m/a,Dog\n", "class_labels_indices.csv, line 2: no column 'display_n"),
        ("ontology.json", "{", "ontology.json: not a list of classes"),
        ("ontology.json", '[{"id": "/m/a"}]', "ontology.json: not a list of classes"),
        ("segments.csv", None, "segments.csv: no such file"),
    ],
)
def test_a_missing_or_bad_list_is_named_with_its_place(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    metadata = write_lists(tmp_path, "abcdefghijk,0,10,/m/a")
    (tmp_path / name).write_text(content or "")
    if content is None:
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/{says}"):
        audioset.read_segments(metadata)
