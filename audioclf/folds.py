"""Dealing clips into folds for cross-validation."""

import numpy as np
import pyarrow as pa

from audioclf import manifest
from audioclf.errors import ConfigError

BATCH_SOURCES = 65_536


def deal(clips: pa.Table, n_folds: int, seed: int = 0) -> pa.Table:
    """Deal sources into folds 1 to n_folds, each class spread evenly; clips of one source stay together.

    Args:
        clips: rows of a manifest, whose fold is replaced.
        n_folds: how many.
        seed: of the order in which sources of one size are dealt.

    Raises:
        ConfigError: fewer sources than folds.
    """
    first = manifest.first_rows(clips["source_id"])
    begins = first == np.arange(len(clips))
    n_sources = int(begins.sum())
    source_of = (np.cumsum(begins) - 1)[first]  # numbered in order of appearance
    del first
    if n_sources < n_folds:
        raise ConfigError(f"--folds {n_folds}: there are only {n_sources} sources to deal into folds")
    sizes = np.bincount(source_of, minlength=n_sources)
    order = np.random.default_rng(seed).permutation(n_sources)
    order = order[np.argsort(-sizes[order], kind="stable")]
    classes = _Classes(clips["labels"], source_of, n_sources)
    dealt = [[0] * n_folds for _ in range(classes.count)]
    fold_sizes = [0] * n_folds
    fold_of_source = np.zeros(n_sources, np.int32)
    # The largest first, each to the fold that has the fewest clips of its classes, then the fewest clips.
    for start in range(0, n_sources, BATCH_SOURCES):
        sources = order[start : start + BATCH_SOURCES]
        folds = []
        for size, labels in zip(sizes[sources].tolist(), classes.of(sources), strict=True):
            crowded = [0] * n_folds
            for label, count in labels:
                crowded = [sum_so_far + count * n for sum_so_far, n in zip(crowded, dealt[label], strict=True)]
            fold = min(zip(crowded, fold_sizes, range(n_folds), strict=True))[2]
            for label, count in labels:
                dealt[label][fold] += count
            fold_sizes[fold] += size
            folds.append(fold + 1)
        fold_of_source[sources] = folds
    return manifest.with_column(clips, "fold", pa.array(fold_of_source[source_of]))


class _Classes:
    """How many clips of which class each source has."""

    def __init__(self, labels: pa.ChunkedArray, source_of: np.ndarray, n_sources: int):
        label_lists = labels.combine_chunks()
        encoded = label_lists.flatten().dictionary_encode()
        self.count = len(encoded.dictionary)
        source_of = np.repeat(source_of, label_lists.value_lengths().to_numpy())
        pairs, self._clips = np.unique(source_of * max(1, self.count) + encoded.indices.to_numpy(), return_counts=True)
        sources, self._label = np.divmod(pairs, max(1, self.count))
        self._bounds = np.searchsorted(sources, np.arange(n_sources + 1))

    def of(self, sources: np.ndarray) -> list[list[tuple[int, int]]]:
        """(class, clips) pairs of each source."""
        firsts, lasts = self._bounds[sources].tolist(), self._bounds[sources + 1].tolist()
        return [
            list(zip(self._label[first:last].tolist(), self._clips[first:last].tolist(), strict=True))
            for first, last in zip(firsts, lasts, strict=True)
        ]
