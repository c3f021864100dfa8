"""A process apart, for work that may kill the one that does it."""

import contextlib
import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

MESSAGE = "the process that decoded it died each time: a fault in the decoder, or out of memory"

_PR_SET_PDEATHSIG = 1


class Trials:
    """Tries calls of one function in a process of its own, started anew when one has killed it."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Trials":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def survives(self, *arguments: Any) -> bool:
        """Whether the function comes back; what it raises is raised here."""
        # Spawned: a fork would inherit locks that other threads hold.
        self._pool = self._pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _be_expendable)
        try:
            self._pool.submit(self._function, *arguments).result()
        except MemoryError:
            return False
        except BrokenProcessPool:
            self._close()
            return False
        return True

    def _close(self) -> None:
        if self._pool:
            self._pool.shutdown()
            self._pool = None


def _be_expendable() -> None:
    """Die with the parent, and before it where memory runs out (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("1000")
