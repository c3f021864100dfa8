"""The rubberband program: found missing or broken, and its files."""

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audioclf.audio import rubberband
from audioclf.errors import AugmentError, EngineError, StorageError

NOISE = np.random.default_rng(0).normal(scale=0.1, size=4_410).astype(np.float32)


@pytest.fixture(autouse=True)
def fresh_check() -> Iterator[None]:
    """What is known of this machine's program must not hide what a test puts in its place."""
    rubberband.check.cache_clear()
    yield
    rubberband.check.cache_clear()


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A rubberband program of the test's own, found before the machine's."""
    program = folder / "bin" / "rubberband"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


def stretch(samples: np.ndarray = NOISE, engine: rubberband.Engine = "r2") -> np.ndarray:
    return rubberband.stretch_and_shift(samples, 44_100, 1.25, -2.5, engine, "clip.wav")


def test_a_program_that_is_there_passes() -> None:
    rubberband.check()


def test_a_missing_program_names_the_machine_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match=r"is missing .*apt-get install rubberband-cli.*brew install") as raised:
        rubberband.check()
    assert socket.gethostname() in str(raised.value)


@pytest.mark.parametrize(
    ("script", "says"), [("exit 1\n", "ends with exit code 1"), ("kill -9 $$\n", "ends with exit code -9")]
)
def test_a_broken_program_names_the_machine_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    put_on_path(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match=rf"{says} on .*apt-get install rubberband-cli") as raised:
        rubberband.check()
    assert socket.gethostname() in str(raised.value)


def test_a_file_that_is_no_program_is_a_broken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, monkeypatch, "")
    (tmp_path / "bin" / "rubberband").write_bytes(b"\x7fELF and no more")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(EngineError, match=r"does not run .*apt-get install rubberband-cli"):
        rubberband.check()


@pytest.mark.parametrize("script", [None, "exit 1\n"])
def test_a_program_that_goes_away_in_mid_run_is_not_the_clips_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    stretch()
    if script is None:
        monkeypatch.setenv("PATH", "")
    else:
        put_on_path(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match=socket.gethostname()):
        stretch()


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_a_program_that_is_ended_from_outside_is_not_the_clips_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # By Python: where the tests run in the background, a shell ignores SIGINT and can't be made to heed it.
    end = f"import os, signal as s; s.signal(s.SIG{name}, s.SIG_DFL); os.kill(os.getpid(), s.SIG{name})"
    script = f'[ "$1" = --version ] && exit 0\nexec {shlex.quote(sys.executable)} -c "{end}"\n'
    put_on_path(tmp_path, monkeypatch, script)
    with pytest.raises(EngineError, match=r"clip\.wav: rubberband -t .* was ended from outside \(signal \d+\)"):
        stretch()


@pytest.mark.parametrize("then", ["exit 1", "exit 0", 'printf "no audio" > "$last"'])
def test_a_failure_over_one_sound_is_that_clips_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    script = f'[ "$1" = --version ] && exit 0\nfor last; do :; done\n{then}\n'
    put_on_path(tmp_path, monkeypatch, script)
    with pytest.raises(AugmentError, match=r"rubberband -t 1\.25 -p -2\.5") as raised:
        stretch()
    assert (raised.value.clip_uri, raised.value.stage) == ("clip.wav", "augment")


@pytest.mark.parametrize(("free_bytes", "error"), [(1 << 30, AugmentError), (10_000, StorageError)])
def test_a_file_cut_short_is_refused_and_put_down_to_a_full_disk_where_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, error: type[Exception]
) -> None:
    """The program says nothing of it."""
    soundfile.write(tmp_path / "short.wav", np.full(4_400, 0.1), 44_100)  # where 5512 are due
    script = f'[ "$1" = --version ] && exit 0\nfor last; do :; done\ncp "{tmp_path}/short.wav" "$last"\n'
    put_on_path(tmp_path, monkeypatch, script)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(rubberband, "_free_bytes", lambda folder: free_bytes)
    with pytest.raises(error, match=r"4400 samples where 5512 are due|no room for the files that rubberband"):
        stretch()


def folder_of_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the program finds the files that it is given; they are gone now."""
    seen = folder / "seen"
    real = shutil.which("rubberband")
    script = f'for last; do :; done\nprintf %s "$last" > "{seen}"\nls -l "$last" > /dev/null\nexec "{real}" "$@"\n'
    put_on_path(folder, monkeypatch, script)
    assert stretch().any()
    path = Path(seen.read_text())
    assert not path.exists()
    return path.parent


@pytest.mark.skipif(not os.access(rubberband.MEMORY, os.W_OK), reason="needs a folder whose files lie in memory")
def test_files_lie_in_memory_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(rubberband, "FREE_BYTES", 0)
    assert folder_of_files(tmp_path, monkeypatch) == Path(rubberband.MEMORY)


def test_files_lie_on_disk_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(rubberband, "FREE_BYTES", 1 << 60)
    assert folder_of_files(tmp_path, monkeypatch) == tmp_path


def test_files_lie_where_the_user_says_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tmp_path / "scratch"
    wanted.mkdir()
    monkeypatch.setenv("TMPDIR", str(wanted))
    monkeypatch.setattr("tempfile.tempdir", None)  # it remembers where files lay before
    assert folder_of_files(tmp_path, monkeypatch) == wanted
    assert not any(wanted.iterdir())


def test_no_file_is_left_where_the_program_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    put_on_path(tmp_path, monkeypatch, '[ "$1" = --version ] && exit 0\nexit 1\n')
    with pytest.raises(AugmentError):
        stretch()
    assert not any((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("engine", ["r2", "r3"])
@pytest.mark.parametrize("n", [1, 2, 10, 100, 1023, 1024, 1025])
def test_a_sound_of_any_length_comes_out_as_long_as_it_should(n: int, engine: rubberband.Engine) -> None:
    changed = stretch(NOISE[:n], engine)
    assert (changed.shape, changed.dtype) == ((round(1.25 * n),), np.float32)
    assert np.isfinite(changed).all()


@pytest.mark.parametrize("level", [1e-30, 1e-20, 1e-3, 1e3, 1e12])
def test_a_sound_of_any_level_keeps_it(level: float) -> None:
    """By a power of two nothing else changes; by any other factor, digits that the engine takes decisions by."""
    factor = np.float32(2.0 ** round(np.log2(level)))
    np.testing.assert_array_equal(stretch(NOISE * factor), stretch(NOISE) * factor)


def test_silence_stays_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # and takes no program
    for silence in (np.zeros(1000, np.float32), np.full(1000, 1e-42, np.float32), np.zeros(0, np.float32)):
        changed = stretch(silence)
        assert (len(changed), changed.any()) == (round(1.25 * len(silence)), False)
