"""How much memory (and how many CPUs) a process may use, whether a set's pictures fit into it, and how it is reused.

Plain Python.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARE = 0.5
"""Of the memory of a training worker: for training rows; the rest is for the network and what it computes."""

_KEPT_BYTES = 256 * 2**20

REUSED = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": _KEPT_BYTES,
        "trim_threshold": _KEPT_BYTES,
        "arena_max": 1,  # with others a thread has a heap of at most 64 MB, and Ray Train trains in a thread
    }.items()
)
"""A process's GLIBC_TUNABLES, read when it starts: arrays of up to 256 MB take memory that earlier ones left, in pages
of 2 MB. Else each new one is mapped afresh and filled with zeros by the kernel, 4 KB at a time, which takes up to
half the time of a training step on a CPU (benchmarks/README.md)."""

_MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")
"""Of control groups of version 2, of version 1."""
_CPU_FILES = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
"""Quota and period: both in one file since version 2, in two files before."""


@dataclass(frozen=True)
class Choice:
    """Where a training's rows are kept.

    Attributes:
        in_memory: all at once; or else streamed from the shards.
        words: what was chosen, and why: a line for the log.
    """

    in_memory: bool
    words: str


def choose(n_rows: int, shape: tuple[int, int], memory_bytes: int) -> Choice:
    """Keep rows in memory if they fit. All workers of a training have to choose alike: with the same memory_bytes.

    Args:
        n_rows: to train on, copies included.
        shape: [M, T] of a picture.
        memory_bytes: that rows may take in each worker: by default SHARE of what is `available`.
    """
    in_memory = fits(n_rows, shape, memory_bytes)
    size = f"{n_rows:,} training rows of {shape[0]} × {shape[1]} take {_gb(picture_bytes(n_rows, shape))}"
    where = "held in memory" if in_memory else "streamed from the shards"
    return Choice(in_memory, f"{size} and may take {_gb(memory_bytes)}: {where}")


def fits(n_rows: int, shape: tuple[int, int], memory_bytes: int) -> bool:
    """Whether the pictures of so many rows take no more than this."""
    return picture_bytes(n_rows, shape) <= memory_bytes


def picture_bytes(n_rows: int, shape: tuple[int, int]) -> int:
    """Of pictures in float16, or of waveforms in int16."""
    return n_rows * shape[0] * shape[1] * 2


def available(physical_bytes: int, limits: Iterable[int], workers: int = 1) -> int:
    """Bytes for each of some workers on one machine: of the least of its memory and the limits, an equal part."""
    return min([physical_bytes, *limits]) // workers


def physical_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_limits(root: Path = Path("/")) -> list[int]:
    """Bytes that Linux control groups (version 1 or 2) allow this process: its own group's, and those above it.

    Args:
        root: of the file system.

    Returns:
        No limits where none are set, or there are no control groups.
    """
    texts = (_text(folder / name) for folder in _groups("memory", root) for name in _MEMORY_FILES)
    return [int(text) for text in texts if text not in ("", "max")]


def cgroup_cpus(root: Path = Path("/")) -> list[float]:
    """CPUs that Linux control groups allow this process, as `cgroup_limits` gives bytes."""
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


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB"
