"""Many small requests of a store at once, their answers in order: alone, each is nearly all waiting."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What the function gives for each item, in order; AT_ONCE items ahead of what is asked for at most.

    Raises:
        Exception: the function's, where its item's turn comes.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
