"""Requests made ahead of their turn: in order, bounded, and none made for nothing."""

import threading
from collections.abc import Iterator

import pytest

from audioclf import read_ahead


def test_answers_come_in_the_order_of_the_questions() -> None:
    later = threading.Event()

    def answer(i: int) -> int:
        if i == 0:
            assert later.wait(60)  # the first is answered last of those that are under way
        if i == read_ahead.AT_ONCE - 1:
            later.set()
        return i * i

    assert list(read_ahead.each(answer, range(100))) == [i * i for i in range(100)]


def test_no_more_are_asked_than_may_be_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    answers = read_ahead.each(str, items())
    assert next(answers) == "0"
    assert len(taken) == read_ahead.AT_ONCE
    answers.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_an_error_comes_where_its_item_stands() -> None:
    answers = read_ahead.each(lambda i: 1 // (3 - i), range(10))
    assert [next(answers) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(answers)
