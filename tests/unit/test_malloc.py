"""What a process's environment makes of the memory of arrays."""

import os
import platform
import subprocess
import sys

import pytest

from audioclf.malloc import REUSED

AGAIN_AND_AGAIN = """
import ctypes, resource, threading
libc = ctypes.CDLL("libc.so.6")
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: where large pages are the rule, faults would be few in any case
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def fill(times):
    for _ in range(times):
        array = libc.malloc(40_000_000)
        ctypes.memset(array, 1, 40_000_000)
        libc.free(array)
def in_a_thread(times):
    thread = threading.Thread(target=fill, args=(times,))
    thread.start()
    thread.join()
fill(1)
in_a_thread(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill(5)
in_a_thread(5)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment: str) -> int:
    """Of arrays of 40 MB that are made and left again and again, in the main thread and in others."""
    command = [sys.executable, "-c", AGAIN_AND_AGAIN]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such settings")
def test_arrays_take_memory_that_earlier_ones_left() -> None:
    n_pages = 10 * 40_000_000 // os.sysconf("SC_PAGE_SIZE")
    assert page_faults(GLIBC_TUNABLES="") > 0.9 * n_pages  # each page of each array
    assert page_faults(GLIBC_TUNABLES=REUSED) < 0.01 * n_pages
