"""Memory and CPUs of this machine, and what Linux control groups leave of them to this process. Plain Python."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")
"""Of control groups of version 2, of version 1."""
_CPU_FILES = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
"""Quota and period: both in one file since version 2, in two files before."""


def available(physical_bytes: int, limits: Iterable[int], workers: int = 1) -> int:
    """Bytes for each of some workers on one machine: of the least of its memory and the limits, an equal part."""
    return min([physical_bytes, *limits]) // workers


def physical_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_memory(root: Path = Path("/")) -> list[int]:
    """Bytes that Linux control groups (version 1 or 2) allow this process: its own group's, and those above it.

    Args:
        root: of the file system.

    Returns:
        No limits where none are set, or there are no control groups.
    """
    texts = (_text(folder / name) for folder in _groups("memory", root) for name in _MEMORY_FILES)
    return [int(text) for text in texts if text not in ("", "max")]


def cgroup_cpus(root: Path = Path("/")) -> list[float]:
    """CPUs that Linux control groups allow this process, as `cgroup_memory` gives bytes."""
    limits = []
    for folder in _groups("cpu", root):
        words = " ".join(_text(folder / name) for name in _CPU_FILES).split()
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
    return limits


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups this process is in."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        # In a container the path may be that outside, of which only the mount's own limit is to be seen.
        below = [part for part in path.split("/") if part]
        yield from (mount.joinpath(*below[:depth]) for depth in range(len(below) + 1))


def _text(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""
