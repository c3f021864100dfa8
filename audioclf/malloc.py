"""How a process uses the memory of its arrays again."""

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
