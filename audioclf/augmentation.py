"""Which augmented copies an extraction makes of each segment, and how one is made."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from audioclf import backgrounds
from audioclf.audio import augment, rubberband
from audioclf.audio.augment import ORIGINAL, TRANSFORM_SETS, Transform
from audioclf.backgrounds import Background
from audioclf.policy import Policy


@dataclass(frozen=True)
class Copy:
    """One row of a segment: copy_index 0 is the original, number counts the copies of one transform set."""

    index: int
    transform_set: str
    number: int


@dataclass(frozen=True)
class Augmentation:
    """What an extraction augments with; small, since it travels to each worker."""

    transform_sets: tuple[str, ...] = ()
    copies: int = 1
    """Of each segment and transform set."""
    seed: int = 0
    engine: rubberband.Engine = "r2"
    policy: Policy | None = None
    """Only copies that it gives a weight are made; None: all."""
    backgrounds: tuple[Background, ...] = ()

    @property
    def all_copies(self) -> list[Copy]:
        """Every copy that a segment may have, the original first."""
        pairs = [(name, number) for name in self.transform_sets for number in range(self.copies)]
        return [Copy(0, ORIGINAL, 0), *(Copy(i, *pair) for i, pair in enumerate(pairs, start=1))]

    def copies_of(self, labels: Iterable[str]) -> list[Copy]:
        """The copies that a segment of these labels has."""
        if self.policy is None:
            return self.all_copies
        wanted = {ORIGINAL, *self.policy.weights(labels)}
        return [copy for copy in self.all_copies if copy.transform_set in wanted]

    @property
    def needs_engine(self) -> bool:
        """Whether Rubber Band has something to do."""
        return any(TRANSFORM_SETS[name].needs_engine for name in self.transform_sets)

    def draw(self, copy: Copy, clip_id: str, segment_index: int) -> Transform:
        """The transform of one copy."""
        names = [one.name for one in self.backgrounds]
        return augment.draw(copy.transform_set, copy.number, self.seed, clip_id, segment_index, names)

    def background_loader(self, sample_rate: int) -> Callable[[str], np.ndarray]:
        """Gives the samples of a background recording by its name, at a rate in Hz."""
        return backgrounds.loader(self.backgrounds, sample_rate)
