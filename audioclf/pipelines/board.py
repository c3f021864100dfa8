"""Where trainings post how they get on. Apart from training: its process need not import torch."""


class Board:
    """The latest epoch of each training, and what they have to say, for the driver to show; an actor of Ray."""

    def __init__(self) -> None:
        self._new: dict[str, tuple[int, dict[str, float]]] = {}
        self._said: list[str] = []

    def say(self, words: str) -> None:
        self._said.append(words)

    def post(self, name: str, epochs: int, metrics: dict[str, float]) -> None:
        self._new[name] = epochs, metrics

    def latest(self) -> tuple[list[str], list[tuple[str, int, dict[str, float]]]]:
        posted, self._new = self._new, {}
        said, self._said = self._said, []
        return said, [(name, *value) for name, value in sorted(posted.items())]
