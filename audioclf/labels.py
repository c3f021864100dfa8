"""Label names ↔ training targets."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from audioclf.errors import CheckpointMismatchError, SchemaError

EVERY_CLASS = "*"
"""In files that people write: all classes not named."""

LISTED = 10
"""Classes named in a message."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes in the order of a network's outputs.

    Attributes:
        names: what a person reads.
        multi_label: whether a clip may have several labels, or none.
        mids: AudioSet's machine ids where there are any, in the same order.
    """

    names: tuple[str, ...]
    multi_label: bool
    mids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, labels: Sequence[Sequence[str]]) -> "Vocabulary":
        """The sorted classes of a set of clips; multi-label unless every clip has one label.

        Raises:
            SchemaError: fewer than two classes.
        """
        names = tuple(sorted({name for clip in labels for name in clip}))
        if len(names) < 2:
            raise SchemaError(f"training needs two classes or more, and the clips have {list(names)}")
        return cls(names, multi_label=any(len(set(clip)) != 1 for clip in labels))

    def rows_in(self, other: "Vocabulary") -> list[int] | None:
        """Where the classes are in another vocabulary; None unless both have the same, and predict them alike."""
        if self.multi_label != other.multi_label or set(self.names) != set(other.names):
            return None
        index = {name: i for i, name in enumerate(other.names)}
        return [index[name] for name in self.names]

    def targets(self, labels: Iterable[Sequence[str]]) -> np.ndarray:
        """[N, C] float32 of zeros and ones.

        Raises:
            CheckpointMismatchError: a label that is not in the vocabulary.
        """
        index = {name: i for i, name in enumerate(self.names)}
        rows = list(labels)
        targets = np.zeros((len(rows), len(self)), np.float32)
        for row, clip in enumerate(rows):
            for name in clip:
                if name not in index:
                    raise CheckpointMismatchError(f"label {name!r} is not in the vocabulary: {some_of(self.names)}")
                targets[row, index[name]] = 1
        return targets


def alike(names: Iterable[str]) -> list[list[str]]:
    """Those that differ in case and punctuation alone, sorted: `Dog bark`, `dog_bark`."""
    of_letters: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        letters = "".join(filter(str.isalnum, name.casefold()))
        of_letters[letters].append(name)
    return [group for letters, group in of_letters.items() if letters and len(group) > 1]


def nearest(key: str, known: Iterable[str], names: Sequence[str]) -> str:
    """For a message on a class that there isn't: which of those known may be meant, or the names there are."""
    near = difflib.get_close_matches(key, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {some_of(names)}"


def some_of(names: Sequence[str]) -> str:
    """The first of them, for a message, and how many more there are."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
