"""Storage, manifest, layouts: what stages agree on."""

import os
import pickle
from pathlib import Path

import boto3
import pyarrow.parquet as pq
import pytest

from audioclf import errors, folds, layouts, manifest, schema, storage
from audioclf.errors import ChangedClipError, ConfigError, MissingClipError, SchemaError, UnreadableClipError
from audioclf.storage import FileInfo

# --- storage

ODD_NAMES = ["plain.wav", "with space.wav", "quo'te\".wav", "new\nline.wav", "100%25.wav", "ümlaut-🎵.wav", "#?&.wav"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_local_path_survives_as_a_uri(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"content")
    uri = storage.to_uri(str(path))
    assert uri == path.as_uri()
    assert storage.local_path(uri) == path
    assert storage.read_bytes(uri) == b"content"
    assert [info.uri for info in storage.list_files(storage.to_uri(str(tmp_path)))] == [uri]


def test_a_name_that_is_not_utf8_survives(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.wav")  # noqa: PTH118
    with open(path, "wb") as file:
        file.write(b"content")
    (info,) = storage.list_files(storage.to_uri(str(tmp_path)))
    assert info.path == "%FF%FE.wav"
    assert storage.read_bytes(info.uri) == b"content"


@pytest.mark.parametrize("name", [name for name in ODD_NAMES if "\n" not in name])
def test_a_bucket_and_a_folder_give_the_same_paths(tmp_path: Path, s3_bucket: str, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).write_bytes(b"content")
    boto3.client("s3").put_object(Bucket=s3_bucket, Key=f"in/sub/{name}", Body=b"content")
    (here,) = storage.list_files(storage.to_uri(str(tmp_path)))
    (there,) = storage.list_files(f"s3://{s3_bucket}/in")
    assert here.path == there.path
    assert storage.read_bytes(there.uri, there.etag) == b"content"


def test_hidden_files_are_no_files_of_a_collection(tmp_path: Path) -> None:
    for name in (".hidden.wav", ".git/x.wav", "seen.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [info.path for info in storage.list_files(storage.to_uri(str(tmp_path)))] == ["seen.wav"]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty place on each kind of store."""
    if request.param == "local":
        return storage.to_uri(str(tmp_path / "place"))
    return f"s3://{request.getfixturevalue('s3_bucket')}/place"


def test_what_is_written_can_be_read_listed_and_removed(root: str) -> None:
    uri = f"{root}/folder/file.bin"
    assert not storage.exists(uri)
    assert storage.names_in(f"{root}/folder") == {}
    storage.write_bytes(uri, b"0123456789")
    assert storage.exists(uri)
    assert set(storage.names_in(f"{root}/folder")) == {"file.bin"}
    assert storage.folders_in(root) == ["folder"]
    with storage.open_ranged(uri) as file:
        file.seek(-4, 2)
        assert file.read(2) == b"67"
        file.seek(1)
        assert file.read() == b"123456789"
    storage.remove(uri)
    storage.remove(uri)
    with pytest.raises(MissingClipError):
        storage.read_bytes(uri)
    with pytest.raises(MissingClipError):
        storage.open_ranged(uri).close()


def test_other_content_than_listed_is_refused(root: str) -> None:
    storage.write_bytes(f"{root}/x", b"before")
    (info,) = storage.list_files(root)
    path = storage.local_path(info.uri)
    storage.write_bytes(info.uri, b"after")
    if path is not None:
        os.utime(path, ns=(1, 1))
    with pytest.raises(ChangedClipError):
        storage.read_bytes(info.uri, info.etag)


def test_places_that_do_not_exist_are_bad_usage(tmp_path: Path, s3_bucket: str) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        list(storage.list_files(storage.to_uri(str(tmp_path / "absent"))))
    with pytest.raises(ConfigError, match="no such bucket"):
        list(storage.list_files("s3://absent-bucket/x"))
    with pytest.raises(ConfigError, match="gs:// is not supported"):
        storage.to_uri("gs://bucket/x")


def test_a_folder_in_place_of_a_file_is_one_clips_trouble(tmp_path: Path) -> None:
    with pytest.raises(UnreadableClipError):
        storage.read_bytes(storage.to_uri(str(tmp_path)))


# --- errors


def test_every_error_survives_pickling() -> None:
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.AudioclfError)]
    assert len(classes) >= 10
    for cls in classes:
        args = ("uri", "stage", "message") if issubclass(cls, errors.ClipError) else ("message",)
        again = pickle.loads(pickle.dumps(cls(*args)))
        assert type(again) is cls
        assert str(again) == str(cls(*args))


# --- layouts


def files(*paths: str) -> list[FileInfo]:
    return [FileInfo(f"file:///in/{path}", path, 10, "1", 0.0) for path in paths]


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
        ("path,labels\na.wav\n", "not as many values"),
        ("name,labels\na.wav,dog\n", "needs a value in column path"),
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


def test_dealt_folds_keep_sources_together_and_classes_even() -> None:
    paths = [f"{label}/{source}-{part}.wav" for label in ("a", "b") for source in range(8) for part in range(3)]
    clips = layouts.from_folders(files(*paths))
    clips = [layouts.Regexes(source=r"^(.+)-").apply(clip) for clip in clips]
    dealt = manifest.clips_of(folds.deal(manifest.to_table(clips), 4))
    folds_of_source: dict[str, set[int | None]] = {}
    for clip in dealt:
        folds_of_source.setdefault(clip.source_id, set()).add(clip.fold)
    assert all(len(found) == 1 for found in folds_of_source.values())
    for label in ("a", "b"):
        counts = [sum(clip.fold == fold and clip.labels == (label,) for clip in dealt) for fold in (1, 2, 3, 4)]
        assert counts == [6, 6, 6, 6]
    with pytest.raises(ConfigError, match="only 16 sources"):
        folds.deal(manifest.to_table(clips), 17)


def test_listing_counts_what_is_passed_over(tmp_path: Path) -> None:
    for name in ("b.WAV", "a.flac", "notes.txt", "README"):
        (tmp_path / name).touch()
    listing = layouts.list_audio(storage.to_uri(str(tmp_path)))
    assert [info.path for info in listing.files] == ["a.flac", "b.WAV"]
    assert listing.skipped == {".txt": 1, "": 1}


# --- manifest


def test_a_manifest_round_trips_with_one_id_for_folder_and_bucket(tmp_path: Path) -> None:
    here = layouts.from_folders(files("dog/1.wav", "cat/2.wav"))
    there = layouts.from_folders(
        [FileInfo(f"s3://b/{f.path}", f.path, 10, "e", 0.0) for f in files("dog/1.wav", "cat/2.wav")]
    )
    written = []
    for name, clips in (("here", here), ("there", there)):
        uri = storage.to_uri(str(tmp_path / name))
        manifest.write(manifest.to_table(clips), uri)
        written.append(manifest.read(uri))
    assert written[0].digest == written[1].digest
    assert written[0].table["clip_id"].equals(written[1].table["clip_id"])
    assert written[0].table["source_id"].equals(written[0].table["clip_id"])  # each a source of its own
    assert pq.read_schema(tmp_path / "here").names == schema.MANIFEST.names


def test_slices_are_the_rows_whatever_the_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "ROW_GROUP_ROWS", 7)
    clips = layouts.from_folders(files(*(f"x/{i:03d}.wav" for i in range(50))))
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table(clips), uri)
    reader = manifest.SliceReader(uri)
    for start, stop in ((0, 50), (6, 8), (7, 14), (49, 50), (0, 1), (13, 29)):
        assert [row["clip_id"] for row in reader.rows(start, stop)] == [clip.clip_id for clip in clips[start:stop]]
    reader.close()


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"text")
    with pytest.raises(SchemaError, match="not a Parquet file"):
        manifest.read(storage.to_uri(str(tmp_path / "x")))
    with pytest.raises(ConfigError, match=r"make it with jobs/manifest\.py"):
        manifest.read(storage.to_uri(str(tmp_path / "absent")))


def test_sources_must_not_cross_folds_nor_clips_come_twice() -> None:
    regexes = layouts.Regexes(fold=r"^(\d)", source=r"-(\w)")
    crossing = [regexes.apply(clip) for clip in layouts.from_flat(files("1-a.wav", "2-a.flac"))]
    with pytest.raises(ConfigError, match="sources must not cross folds"):
        manifest.check(manifest.to_table(crossing))
    with pytest.raises(ConfigError, match="named twice"):
        manifest.check(manifest.to_table(layouts.from_flat(files("a.wav", "a.wav"))))
