"""Which rows an epoch shows: one of each segment, or rare classes as often as common ones. Plain NumPy and Arrow."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from audioclf.errors import ConfigError
from audioclf.row_index import Column, group_numbers


class RowDraw:
    """Draws, for each segment, one of its rows: the original or a copy.

    Args:
        clip_ids, segment_indices: [N] of the rows.
        weights: [N] how often a row is drawn against the other rows of its segment; a segment whose rows all have
            the weight 0 is left out.

    Attributes:
        first_rows: [S] a row of each segment.

    Raises:
        ConfigError: no row has a weight above 0.
    """

    def __init__(self, clip_ids: Sequence[str], segment_indices: Sequence[int], weights: np.ndarray):
        rows = np.flatnonzero(weights > 0)
        if len(rows) == 0:
            raise ConfigError("no row is left to train on: all have the weight 0")
        segment = group_numbers(clip_ids, segment_indices)
        self._rows = rows[np.argsort(segment[rows], kind="stable")]
        self._bounds = np.cumsum(weights[self._rows])
        self._first = np.flatnonzero(np.diff(segment[self._rows], prepend=-1))
        self._last = np.append(self._first[1:], len(self._rows)) - 1
        self._begin = self._bounds[self._first] - weights[self._rows[self._first]]
        self.first_rows = self._rows[self._first]

    def __len__(self) -> int:
        return len(self._first)

    def draw(self, numbers: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
        """Row indices [D], one of each segment drawn.

        Args:
            numbers: [D] in [0, 1).
            segments: [D] numbers of segments, in any order and as often as wanted; None: each once, D = S.
        """
        chosen = slice(None) if segments is None else segments
        first, last, begin = self._first[chosen], self._last[chosen], self._begin[chosen]
        at = begin + numbers * (self._bounds[last] - begin)
        found = np.searchsorted(self._bounds, at, side="right")
        return self._rows[np.clip(found, first, last)]  # where rounding led to a neighbour


def balanced_weights(labels: Sequence[Sequence[str]], rows: np.ndarray) -> np.ndarray:
    """How often segments are to be drawn so that rare classes come as often as common ones.

    Source: Y. Gong, Y.-A. Chung, J. Glass, "PSLA: Improving Audio Tagging with Pretraining, Sampling, Labeling, and
    Aggregation" (2021), arXiv 2102.01243.

    Args:
        labels: of all rows.
        rows: [S] a row of each segment: `RowDraw.first_rows`.

    Returns:
        [S] float64: the sum, over a segment's labels, of 1 / (number of the segments that have the label); 0 for a
        segment without labels.
    """
    if isinstance(labels, Column):
        lists = labels.arrow(rows)
    else:
        lists = pa.array([labels[row] for row in rows], pa.list_(pa.string()))
    segment = np.repeat(np.arange(len(rows)), lists.value_lengths().to_numpy())
    names = lists.flatten().dictionary_encode()
    # A label counts once, if a clip names it twice.
    pairs = np.unique(segment * max(1, len(names.dictionary)) + names.indices.to_numpy())
    segment, name = np.divmod(pairs, max(1, len(names.dictionary)))
    return np.bincount(segment, weights=1 / np.bincount(name)[name], minlength=len(rows))


def draw_segments(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many segments as there are, with replacement, in random order.

    Args:
        weights: [S] how often each is drawn, against the others.
        rng: random numbers.

    Returns:
        [S] numbers of segments.

    Raises:
        ConfigError: all weights are 0.
    """
    total = weights.sum()
    if total == 0:
        raise ConfigError("no segment has a label: there are no classes to draw alike; leave out --sampling balanced")
    return rng.choice(len(weights), len(weights), p=weights / total)
