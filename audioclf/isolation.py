"""A process apart, for work that may kill the one that does it."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

MESSAGE = "the process that decoded it died each time: a fault in the decoder, or out of memory"


class Trials:
    """Tries calls of one function in a process of its own, started anew when one has killed it."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        self._pool: ProcessPoolExecutor | None = None

    def survives(self, *arguments: Any) -> bool:
        """Whether the function comes back; what it raises is raised here."""
        # Spawned: a fork would inherit locks that other threads hold.
        self._pool = self._pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            self._pool.submit(self._function, *arguments).result()
        except BrokenProcessPool:
            self.close()
            return False
        return True

    def close(self) -> None:
        """End the process."""
        if self._pool:
            self._pool.shutdown()
            self._pool = None
