"""Storage: names that survive, what is written and read, and where things go wrong."""

import errno
import os
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from audioclf import s3, s3_files, s3_listing, storage
from audioclf.errors import ChangedClipError, ConfigError, MissingClipError, StorageError, UnreadableClipError


def test_readers_see_the_old_content_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = storage.to_uri(str(tmp_path / "file"))
    storage.write_bytes(uri, b"before")

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        with pytest.raises(StorageError, match="no space left on the disk; free some"):
            storage.write_bytes(uri, b"after")
    assert storage.read_bytes(uri) == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is left over


def fill(mount: Path) -> None:
    """A file system that holds 1 MiB, and almost that."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, to mount a small disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"may not mount a small disk: {done.stderr.decode().strip()}")
    (mount / "there").write_bytes(bytes(900 << 10))


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        fill(mount)
        yield mount
    finally:
        if mount.is_mount():
            subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("piece_bytes", [1000, 400_000])  # smaller and larger than what is written at once
def test_a_full_disk_says_so_and_keeps_no_half_of_a_file(full_disk: Path, piece_bytes: int) -> None:
    uri = storage.to_uri(str(full_disk / "new"))
    storage.write_bytes(uri, b"before")

    def write() -> None:
        with storage.create(uri) as file:
            for _ in range(800_000 // piece_bytes):
                file.write(bytes(piece_bytes))

    with pytest.raises(StorageError, match=r"disk/new: no space left on the disk; free some and run the same command"):
        write()
    assert storage.read_bytes(uri) == b"before"
    assert sorted(path.name for path in full_disk.iterdir()) == ["new", "there"]


def test_a_full_disk_is_no_damage_to_parquet(full_disk: Path) -> None:
    """The error comes through pyarrow's writer as what it is."""
    table = pa.table({"x": np.random.default_rng(0).random(1_000_000)})

    def write() -> None:
        with storage.create(storage.to_uri(str(full_disk / "t.parquet"))) as file:
            pq.write_table(table, file)

    with pytest.raises(StorageError, match=r"t\.parquet: no space left on the disk"):
        write()
    assert [path.name for path in full_disk.iterdir()] == ["there"]


def test_a_full_folder_of_temporary_files_is_named(
    full_disk: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(full_disk))
    monkeypatch.setattr(s3_files, "PART_BYTES", 5 << 20)
    with pytest.raises(StorageError, match=f"{full_disk}: no space left on the disk"):
        storage.write_bytes(f"s3://{s3_bucket}/x", bytes(6 << 20))
    assert not storage.exists(f"s3://{s3_bucket}/x")


def test_a_used_up_quota_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="file: no space left in the disk quota; free some"):
        storage.write_bytes(storage.to_uri(str(tmp_path / "file")), b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_created_file_appears_at_the_end(tmp_path: Path) -> None:
    uri = storage.to_uri(str(tmp_path / "deep" / "file"))
    with storage.create(uri) as file:
        file.write(b"one ")
        file.flush()
        assert not storage.exists(uri)
        assert storage.names_in(storage.to_uri(str(tmp_path / "deep"))) == {}
        file.write(b"two")
    assert storage.read_bytes(uri) == b"one two"
    with pytest.raises(OSError, match="another disk's"), storage.create(uri) as file:  # noqa: PT012
        file.write(b"other")
        raise OSError(errno.ENOSPC, "another disk's trouble keeps its own name")
    assert storage.read_bytes(uri) == b"one two"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_local_file_that_changed_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    (info,) = storage.list_files(storage.to_uri(str(tmp_path)))
    with storage.open_ranged(info.uri, info.etag) as file:
        assert file.read() == b"before"
    os.utime(tmp_path / "x", ns=(0, int(info.etag) + 1))
    with pytest.raises(ChangedClipError):
        storage.open_ranged(info.uri, info.etag)
    (tmp_path / "x").unlink()
    with pytest.raises(MissingClipError):
        storage.open_ranged(info.uri, info.etag)


def test_a_prefix_is_removed_with_all_that_is_below_it(s3_bucket: str) -> None:
    uris = [f"s3://{s3_bucket}/run/{i % 3}/{i}" for i in range(50)]
    for uri in [*uris, f"s3://{s3_bucket}/run-2/x"]:
        storage.write_bytes(uri, b"x")
    storage.remove_all(f"s3://{s3_bucket}/run")
    assert [info.uri for info in storage.list_files(f"s3://{s3_bucket}")] == [f"s3://{s3_bucket}/run-2/x"]
    storage.remove_all(f"s3://{s3_bucket}/run")


def test_a_file_that_may_not_be_removed_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=str(tmp_path)):
        storage.remove(storage.to_uri(str(tmp_path)))


def test_what_is_written_may_be_read_by_others(tmp_path: Path) -> None:
    storage.write_bytes(storage.to_uri(str(tmp_path / "deep" / "file")), b"x")
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o644


def test_a_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file"):
        storage.write_bytes(storage.to_uri(str(tmp_path / "file" / "below")), b"x")


def test_a_missing_text_file_is_bad_usage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        storage.read_text(storage.to_uri(str(tmp_path / "absent.csv")))
    (tmp_path / "latin1.csv").write_bytes("größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin1\.csv: not UTF-8"):
        storage.read_text(storage.to_uri(str(tmp_path / "latin1.csv")))


def test_a_removed_file_has_changed_in_no_other_way(tmp_path: Path) -> None:
    with pytest.raises(MissingClipError) as raised:
        storage.read_bytes(storage.to_uri(str(tmp_path / "gone.wav")), "1")
    assert (raised.value.stage, raised.value.clip_uri) == ("fetch", str(tmp_path / "gone.wav"))


def test_a_link_back_up_does_not_go_round_in_circles(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.wav").touch()
    (tmp_path / "dog" / "up").symlink_to(tmp_path)
    assert [info.path for info in storage.list_files(storage.to_uri(str(tmp_path)))] == ["dog/a.wav"]


def test_folders_that_link_to_each_other_do_not_go_round_in_circles(tmp_path: Path) -> None:
    for year in ("2023", "2024"):
        (tmp_path / year).mkdir()
        (tmp_path / year / f"{year}.wav").touch()
    (tmp_path / "2023" / "next").symlink_to("../2024")
    (tmp_path / "2024" / "previous").symlink_to("../2023")
    (tmp_path / "itself").symlink_to("itself")
    found = sorted(info.path for info in storage.list_files(storage.to_uri(str(tmp_path))))
    assert found == ["2023/2023.wav", "2023/next/2024.wav", "2024/2024.wav", "2024/previous/2023.wav"]


def test_links_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.wav").touch()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dog").symlink_to(tmp_path / "disk")
    assert [info.path for info in storage.list_files(storage.to_uri(str(tmp_path / "in")))] == ["dog/a.wav"]


def test_links_that_lead_nowhere_are_told_and_do_not_stop_a_listing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "below.wav").symlink_to("a.wav/x.wav")
    (tmp_path / "long.wav").symlink_to("x" * 300)
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "absent")
    assert [info.path for info in storage.list_files(storage.to_uri(str(tmp_path)))] == ["a.wav"]
    assert f"3 links lead nowhere and are left out, such as {tmp_path}/" in caplog.text


def test_an_unreadable_folder_stops_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(StorageError, match=r"closed.*Permission denied"):
        list(storage.list_files(storage.to_uri(str(tmp_path))))


def test_what_goes_away_during_a_listing_is_left_out(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).touch()
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "c.wav").touch()
    listing = storage.list_files(storage.to_uri(str(tmp_path)))
    first = next(listing).path
    (tmp_path / ({"a.wav", "b.wav"} - {first}).pop()).unlink()
    shutil.rmtree(tmp_path / "day")
    assert list(listing) == []


def test_what_a_file_system_has_recovered_is_not_the_archives(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy of it in a bucket neither: both list the same."""
    for folder in ("lost+found", "day/lost+found"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").touch()
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=f"in/{folder}/a.wav", Body=b"")
    for root in (storage.to_uri(str(tmp_path)), f"s3://{s3_bucket}/in"):
        assert [info.path for info in storage.list_files(root)] == ["day/lost%2Bfound/a.wav"]
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(tmp_path / "day"))
    assert list(storage.list_files(storage.to_uri(str(tmp_path)))) == []


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("file:///a/b/", "file:///a/b"),
        ("file:///", "file:///"),
        ("/a/../b c", "file:///b%20c"),
    ],
)
def test_a_place_has_one_uri(typed: str, uri: str) -> None:
    assert storage.to_uri(typed) == uri


def test_a_relative_path_is_below_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.to_uri("run") == f"{tmp_path.as_uri()}/run"
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage.to_uri("~/run") == "file:///home/someone/run"


@pytest.mark.parametrize("typed", ["s3://", "s3:///key"])
def test_an_s3_uri_without_a_bucket_is_bad_usage(s3_bucket: str, typed: str) -> None:
    with pytest.raises(ConfigError, match="no bucket"):
        list(storage.list_files(storage.to_uri(typed)))


# --- S3


def test_a_listing_of_many_pages_is_whole(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3")
    expected = {f"{i}.wav": i for i in range(7)}
    for name, size in expected.items():
        client.put_object(Bucket=s3_bucket, Key=f"in/{name}", Body=bytes(size))
    client.put_object(Bucket=s3_bucket, Key="in/", Body=b"")  # what consoles make of a folder
    client.put_object(Bucket=s3_bucket, Key="inner/x.wav", Body=b"")  # a prefix in name alone
    list_page, pages = s3.client().list_objects_v2, []

    def list_two(**query: str) -> dict[str, Any]:
        pages.append(list_page(**query, MaxKeys=2))  # pyright: ignore[reportArgumentType]
        return pages[-1]

    monkeypatch.setattr(s3.client(), "list_objects_v2", list_two)
    found = {info.path: info.size_bytes for info in storage.list_files(f"s3://{s3_bucket}/in")}
    assert found == expected
    assert len(pages) >= 4  # of 8 keys


FOLDERS = {
    "": ["a.wav", "z.wav", "ä.wav", "%41.wav"],
    "a/": ["", "1.wav", "2.wav", "/3.wav", "deep/", "deep/er/4.wav", ".hidden.wav"],
    "a": ["5.wav"],
    "a!/": ["6.wav"],  # "!" comes before "/"
    "b c+d&e=f?#/": ["7.wav", "8/9.wav"],
    "größe/": [f"{i}.wav" for i in range(5)],
    "//": ["10.wav"],
    "日本/": ["1/日.wav", "2/本.wav"],
    "😀/": ["x.wav"],
    ".git/": ["11.wav"],
    "z/": [f"{i % 3}/{i}/x.wav" for i in range(9)],
}


@pytest.mark.parametrize("ranges", [1, 3, 256])
@pytest.mark.parametrize("few_folders", [0, 64])
@pytest.mark.parametrize("root", ["", "in"])
def test_a_listing_in_ranges_loses_nothing(
    s3_bucket: str, monkeypatch: pytest.MonkeyPatch, root: str, few_folders: int, ranges: int
) -> None:
    names = {folder + name for folder, below in FOLDERS.items() for name in below}
    client = boto3.client("s3")
    for name in names:
        client.put_object(Bucket=s3_bucket, Key=f"{root}/{name}" if root else name, Body=name.encode())
    list_page = s3.client().list_objects_v2
    monkeypatch.setattr(s3.client(), "list_objects_v2", lambda **query: list_page(**query, MaxKeys=2))
    monkeypatch.setattr(s3_listing, "FEW_FOLDERS", few_folders)
    monkeypatch.setattr(s3_listing, "RANGES", ranges)
    found = sorted((info.uri, info.path, info.size_bytes) for info in storage.list_files(f"s3://{s3_bucket}/{root}"))
    seen = [name for name in names if not name.endswith("/") and not any(p.startswith(".") for p in name.split("/"))]
    expected = [
        ("/".join(filter(None, ["s3:/", s3_bucket, root])) + "/" + name, urllib.parse.quote(name), len(name.encode()))
        for name in seen
    ]
    assert found == sorted(expected)


def test_a_short_listing_is_one_request(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1", "b/2", "3"):
        storage.write_bytes(f"s3://{s3_bucket}/{name}", b"x")
    list_page, pages = s3.client().list_objects_v2, []
    monkeypatch.setattr(s3.client(), "list_objects_v2", lambda **query: pages.append(query) or list_page(**query))
    assert sorted(info.path for info in storage.list_files(f"s3://{s3_bucket}")) == ["3", "a/1", "b/2"]
    assert len(pages) == 1


def test_a_range_that_cannot_be_read_stops_the_listing(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(9):
        storage.write_bytes(f"s3://{s3_bucket}/{i}/x", b"x")
    list_page = s3.client().list_objects_v2

    def refuse_one(**query: Any) -> Any:
        if query.get("StartAfter", "").startswith("5"):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")
        return list_page(**query, MaxKeys=2)

    monkeypatch.setattr(s3.client(), "list_objects_v2", refuse_one)
    with pytest.raises(StorageError, match="AccessDenied"):
        list(storage.list_files(f"s3://{s3_bucket}"))


def test_a_whole_bucket_is_a_place_too(s3_bucket: str) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/dog/a.wav", b"x")
    storage.write_bytes(f"s3://{s3_bucket}/b.wav", b"x")
    assert sorted(info.path for info in storage.list_files(f"s3://{s3_bucket}")) == ["b.wav", "dog/a.wav"]
    assert set(storage.names_in(f"s3://{s3_bucket}")) == {"b.wav"}
    assert storage.folders_in(f"s3://{s3_bucket}") == ["dog"]


@pytest.mark.parametrize("size", [0, 1, storage.RANGE_BLOCK_BYTES, storage.RANGE_BLOCK_BYTES + 1])
def test_ranged_reads_give_the_whole_object(s3_bucket: str, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    storage.write_bytes(f"s3://{s3_bucket}/x", content)
    with storage.open_ranged(f"s3://{s3_bucket}/x") as file:
        assert file.read() == content
        assert file.read() == b""
        file.seek(size // 2)
        assert file.read(10) == content[size // 2 : size // 2 + 10]


def test_an_object_replaced_since_the_listing_is_refused_and_a_missing_one_is_missing(s3_bucket: str) -> None:
    storage.write_bytes(f"s3://{s3_bucket}/in/x", b"before")
    (info,) = storage.list_files(f"s3://{s3_bucket}/in")
    storage.write_bytes(info.uri, b"after")
    with pytest.raises(ChangedClipError):
        storage.read_bytes(info.uri, info.etag)
    storage.remove(info.uri)
    with pytest.raises(MissingClipError):
        storage.read_bytes(info.uri, info.etag)


def test_an_unreachable_store_is_no_clips_fault(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setattr(s3, "PATIENCE", s3.Patience(total_s=0.1, answer_s=1))
    s3.client.cache_clear()
    with pytest.raises(StorageError, match="check AWS_ENDPOINT_URL"):
        storage.read_bytes(f"s3://{s3_bucket}/x")


def test_pyarrow_gets_the_same_endpoint(s3_bucket: str, moto_endpoint: str) -> None:
    options = s3.pyarrow_options(f"s3://{s3_bucket}/x")
    assert f"{options['scheme']}://{options['endpoint_override']}" == moto_endpoint
    assert options["region"] == "us-east-1"


def test_pyarrow_is_told_the_buckets_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variables say, and though the bucket's listing is refused."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3.client.cache_clear()
    client = s3.client()
    headers = {"x-amz-bucket-region": "eu-central-1"}
    with Stubber(client) as store:
        for add in (partial(store.add_response, "head_bucket", {"ResponseMetadata": {"HTTPHeaders": headers}}),
                    partial(store.add_client_error, "head_bucket", "403", http_status_code=403,
                            response_meta={"HTTPHeaders": headers})):  # fmt: skip
            add(expected_params={"Bucket": "far"})
            assert s3.pyarrow_options("s3://far/x") == {"region": "eu-central-1"}
    s3.client.cache_clear()


@pytest.mark.parametrize(
    ("host", "is_aws"),
    [
        ("s3.amazonaws.com", True),
        ("s3.eu-central-1.amazonaws.com", True),
        ("s3-us-west-2.amazonaws.com", True),
        ("bucket.vpce-0a1b-2c3d.s3.eu-central-1.vpce.amazonaws.com", False),
        ("s3-fips.us-east-1.amazonaws.com", False),
        ("127.0.0.1:9000", False),
    ],
)
def test_an_endpoint_of_the_users_own_is_kept(host: str, is_aws: bool) -> None:
    assert bool(s3.AWS_ENDPOINT.fullmatch(host)) == is_aws


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


@pytest.mark.parametrize("typed", ["s3:/bucket/tags", "S3://bucket/tags", "S3:/bucket/tags"])
def test_a_slip_in_the_scheme_is_no_local_path(typed: str) -> None:
    with pytest.raises(ConfigError, match=f"{typed}: write s3://bucket/tags"):
        storage.to_uri(typed)


def test_a_folder_in_place_of_a_file_is_one_clips_trouble(tmp_path: Path) -> None:
    with pytest.raises(UnreadableClipError):
        storage.read_bytes(storage.to_uri(str(tmp_path)))


def test_an_empty_path_is_not_the_working_directory() -> None:
    with pytest.raises(ConfigError, match="is a variable of the shell not set"):
        storage.to_uri("")
