"""Local files that fail, and what is left of those that were not finished."""

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from audioclf import local_files, storage
from audioclf.audio.recording import Recording
from audioclf.errors import StorageError

UNREADABLE = Path("/proc/self/mem")
"""Its first page is not mapped: reading it is an input/output error."""


@pytest.fixture
def failing() -> Iterator[BinaryIO]:
    if not UNREADABLE.exists():
        pytest.skip("needs Linux's /proc")
    file = io.BufferedReader(local_files.Reader(UNREADABLE, "disk/a.wav"))
    yield file
    file.close()


def test_a_failed_read_is_the_stores_and_stays(failing: BinaryIO) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match=r"disk/a\.wav: Input/output error"):
            failing.read(10)
    with pytest.raises(StorageError):
        failing.seek(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # by the library on the way
def test_a_disk_that_fails_under_a_decoder_is_the_disks_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile takes the exception of a file for its end."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.tile([0.1, -0.1], 200_000), 44_100)
    read = io.FileIO.readinto

    class Failing(local_files.Reader):
        def readinto(self, buffer) -> int:
            self._raise_again()
            if self.tell() > path.stat().st_size // 2:
                self._failed = StorageError("the disk died")
                raise self._failed
            return read(self, buffer)

    monkeypatch.setattr(local_files, "Reader", Failing)
    with (
        Recording(storage.open_ranged(path.as_uri()), "x") as recording,
        pytest.raises(StorageError, match="the disk died"),
    ):
        recording.read(0, 400_000)


def test_what_was_not_finished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("unit-0.parquet", ".abc.tmp", ".another_runs.tmp", ".keep"):
        (tmp_path / name).touch()
        if name != ".another_runs.tmp":
            os.utime(tmp_path / name, (0, time.time() - 2 * local_files.ABANDONED_S))
    storage.remove_unfinished(tmp_path.as_uri())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".another_runs.tmp", ".keep", "unit-0.parquet"]
    storage.remove_unfinished((tmp_path / "absent").as_uri())
