"""Sounds of a report."""

import pytest

from audioclf.errors import DecodeError, StorageError
from audioclf.report.media import SoundSource


def test_a_store_that_can_t_be_reached_is_asked_once() -> None:
    asked: list[str] = []

    def read(name: str, error: Exception | None = None) -> str:
        asked.append(name)
        if error:
            raise error
        return name

    source = SoundSource()
    assert source.get(lambda: read("a")) == "a"
    with pytest.raises(DecodeError):
        source.get(lambda: read("b", DecodeError("b", "decode", "no sound")))
    assert source.get(lambda: read("c")) == "c"
    for name in ("d", "e"):
        with pytest.raises(StorageError, match="no route"):
            source.get(lambda name=name: read(name, StorageError("no route")))
    assert asked == ["a", "b", "c", "d"]
