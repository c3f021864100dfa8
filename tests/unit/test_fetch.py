"""What is fetched of a recording on S3, for a unit that takes all of it or a part; which trouble is a clip's own."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from audioclf import fetch, storage
from audioclf.errors import AccessDeniedError, DiskError, UnreadableClipError
from audioclf.fetch import Fetcher
from tests import fault_proxy
from tests.fault_proxy import Fault, FaultProxy


@pytest.mark.parametrize("in_part", [False, True])
def test_of_a_recording_in_parts_no_unit_fetches_the_whole(
    s3_bucket: str, in_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, content = f"s3://{s3_bucket}/long.wav", bytes(range(256)) * 1000
    storage.write_bytes(uri, content)
    read_bytes, whole = storage.read_bytes, []

    def noted(*args: Any) -> bytes:
        whole.append(args[0])
        return read_bytes(*args)

    monkeypatch.setattr(storage, "read_bytes", noted)
    fetcher = Fetcher(1 << 20)
    row = {"uri": uri, "etag": None, "size_bytes": len(content)}
    ((found, opener),) = fetcher([row], in_part)
    with opener() as file:
        file.seek(200_000)
        assert file.read(100) == content[200_000:200_100]
    fetcher.close()
    assert found == row
    assert whole == ([] if in_part else [uri])


DENIED = fault_proxy.refusal(403, "AccessDenied")


def denying(*names: str) -> fault_proxy.FaultFunction:
    """Refuses objects whose path ends in one of these."""

    def choose(index: int, method: str, path: str) -> Fault | None:
        return DENIED if path.endswith(names) else None

    return choose


@pytest.fixture
def three(proxy: FaultProxy, direct: Callable[[str, bytes], None], s3_bucket: str) -> list[str]:
    """Three objects; the second may not be read."""
    for name in "abc":
        direct(name, b"sound")
    proxy.faults = denying("/b")
    return [f"s3://{s3_bucket}/{name}" for name in "abc"]


def opened(uri: str, readable_uri: str | None, size: int) -> bytes:
    with contextlib.closing(Fetcher(1 << 20)) as fetcher:
        ((_, opener),) = fetcher([{"uri": uri, "etag": None, "size_bytes": size}])
        with fetch.own_trouble(uri, readable_uri), opener() as file:
            return file.read()


WHOLE, BY_RANGE = 5, 1 << 40


@pytest.mark.parametrize("size", [WHOLE, BY_RANGE])
def test_one_object_that_may_not_be_read_is_its_own_trouble(three: list[str], size: int) -> None:
    a, b, c = three
    assert opened(c, a, size) == b"sound"
    with pytest.raises(UnreadableClipError, match="access denied, though it reads others") as raised:
        opened(b, a, size)
    assert (raised.value.clip_uri, raised.value.stage) == (b, "fetch")
    with pytest.raises(UnreadableClipError):
        fetch.probe(b, a)


@pytest.mark.parametrize("size", [WHOLE, BY_RANGE])
def test_rights_that_were_lost_are_no_clips_trouble(proxy: FaultProxy, three: list[str], size: int) -> None:
    a, b, _ = three
    proxy.faults = denying("/a", "/b")
    with pytest.raises(AccessDeniedError, match=f"{b}.*give them the right"):
        opened(b, a, size)
    with pytest.raises(AccessDeniedError, match=b):
        opened(b, None, size)
    with pytest.raises(AccessDeniedError, match=b):  # of this bucket it says nothing
        opened(b, "s3://another-bucket/a", size)


@pytest.fixture
def failing(tmp_path: Path) -> str:
    """A file that the kernel can't read: EIO, as of a bad sector. Of this memory nothing is at its address 0."""
    link = tmp_path / "failing.wav"
    link.symlink_to("/proc/self/mem")
    return storage.to_uri(str(link))


def test_a_file_that_its_disk_does_not_read_is_its_own_trouble(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = storage.to_uri(str(tmp_path / "good.wav"))
    storage.write_bytes(good, b"sound")
    with pytest.raises(DiskError, match=r"failing.wav: Input/output error"):  # it is on another disk
        opened(failing, good, WHOLE)
    monkeypatch.setattr(fetch, "_place", lambda uri: "one disk")
    with pytest.raises(UnreadableClipError, match="the disk can't read it, though it reads others"):
        opened(failing, good, WHOLE)
    with pytest.raises(DiskError, match=r"failing.wav"):  # nor does it read the other
        opened(failing, failing, WHOLE)
    with pytest.raises(DiskError):
        fetch.find_readable([failing])
    assert fetch.find_readable([failing, f"{good}-absent", good]) == good


def test_the_first_that_may_be_read_is_found(proxy: FaultProxy, three: list[str]) -> None:
    a, b, c = three
    assert fetch.find_readable([f"{a}-absent", b, c, a]) == c
    assert [path.rsplit("/", 1)[1] for _, path in proxy.log] == ["a-absent", "b", "c"]
    assert fetch.find_readable([f"{a}-absent"]) is None
    with pytest.raises(AccessDeniedError, match=b):
        fetch.find_readable([b, f"{a}-absent"])


@pytest.mark.parametrize(("n", "rows"), [(0, []), (1, [0]), (3, [0, 1, 2]), (8, [*range(8)])])
def test_few_are_all_looked_at(n: int, rows: list[int]) -> None:
    assert fetch.spread_rows(n) == rows
    assert list(fetch.spread(pa.chunked_array([list(map(str, range(n)))], pa.string()))) == list(map(str, rows))


def test_of_many_some_are_looked_at() -> None:
    rows = fetch.spread_rows(1_000_000)
    assert len(rows) == fetch.LOOKED_AT
    assert (rows[0], rows[-1]) == (0, 999_999)
