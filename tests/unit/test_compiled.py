"""Compiled functions are kept on disk, and computed whatever becomes of what is kept."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from audioclf.audio.compiled import compiled

MODULE = """
from audioclf.audio.compiled import compiled

@compiled
def doubled(x):
    return 2 * x
"""
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doubling.py").write_text(MODULE)
    return tmp_path


def computed(folder: Path, before: str = "") -> list[Path]:
    """The files that are there after another process has computed something."""
    code = f"{before}import sys; sys.path.insert(0, {str(folder)!r}); import doubling; print(doubling.doubled(1.5))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3.0\n", done.stderr
    return sorted(file for file in folder.rglob("*") if file.suffix in (".nbi", ".nbc"))


def test_what_is_compiled_is_kept(folder: Path) -> None:
    index, code = computed(folder)[::-1]
    written = index.stat().st_mtime_ns, code.stat().st_mtime_ns
    assert computed(folder) == [code, index]
    assert (index.stat().st_mtime_ns, code.stat().st_mtime_ns) == written


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("left", [0, 5])
def test_what_a_power_cut_has_left_is_made_anew(folder: Path, suffix: str, left: int) -> None:
    (damaged,) = (file for file in computed(folder) if file.suffix == suffix)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:left])
    assert damaged in computed(folder)
    assert damaged.stat().st_size == len(whole)


def test_a_full_disk_keeps_nothing_and_stops_nothing(folder: Path) -> None:
    assert computed(folder, FULL_DISK) == []


def test_a_function_of_no_file_has_no_place_beside_it() -> None:
    names: dict[str, object] = {"compiled": compiled}
    exec("@compiled\ndef doubled(x):\n    return 2 * x\n", names)
    doubled = names["doubled"]
    assert callable(doubled)
    assert doubled(np.float32(1.5)) == 3
