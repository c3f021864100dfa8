"""Folds: properties of how sources are dealt."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from audioclf import folds, layouts, manifest
from audioclf.errors import ConfigError
from audioclf.manifest import Clip

from .listed import files


def clip(name: str, label: str, source: str = "") -> Clip:
    return Clip(name, f"file:///{name}", 10, "1", labels=(label,), source_id=source)


def deal(clips: list[Clip], n_folds: int, seed: int = 0) -> list[Clip]:
    dealt = folds.deal(manifest.to_table(clips), n_folds, seed)["fold"].to_pylist()
    return [replace(clip, fold=fold) for clip, fold in zip(clips, dealt, strict=True)]


@settings(deadline=None)  # the first call imports scikit-learn
@given(
    sources=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4)),  # class, clips
        min_size=6,
        max_size=30,
    ),
    n_folds=st.integers(2, 4),
    seed=st.integers(0, 3),
)
def test_dealt_folds_keep_sources_together_and_clips_in_order(
    sources: list[tuple[str, int]], n_folds: int, seed: int
) -> None:
    clips = [clip(f"{s}-{i}", label, f"source{s}") for s, (label, n) in enumerate(sources) for i in range(n)]
    assume(min(Counter(c.labels for c in clips).values()) >= n_folds)  # rarer classes: below
    dealt = deal(clips, n_folds, seed)
    assert [c.clip_id for c in dealt] == [c.clip_id for c in clips]
    assert {c.fold for c in dealt} == set(range(1, n_folds + 1))
    manifest.check(manifest.to_table(dealt))
    folds = {(c.source_id, c.fold) for c in dealt}
    assert len(folds) == len(sources)
    assert deal(clips, n_folds, seed) == dealt


def test_classes_rarer_than_folds_are_dealt_too() -> None:
    """Two clips of each of five classes into three folds: never both into one."""
    clips = [clip(f"{label}{i}", label) for label in "abcde" for i in range(2)]
    dealt = deal(clips, 3)
    assert {c.fold for c in dealt} == {1, 2, 3}
    assert all(first.fold != second.fold for first, second in zip(dealt[::2], dealt[1::2], strict=True))


def test_one_class_rarer_than_folds_disturbs_nobody() -> None:
    dealt = deal([clip(f"a{i}", "a") for i in range(9)] + [clip("b", "b")], 3)
    assert [sum(c.fold == fold and c.labels == ("a",) for c in dealt) for fold in (1, 2, 3)] == [3, 3, 3]


def test_dealing_does_not_look_at_where_clips_lie() -> None:
    here = [clip(f"{label}{i}", label) for label in "ab" for i in range(6)]
    there = [Clip(c.clip_id, f"s3://b/{c.clip_id}", 10, "e", labels=c.labels) for c in here]
    assert [c.fold for c in deal(here, 3)] == [c.fold for c in deal(there, 3)]


def test_folds_that_are_there_already_are_dealt_anew() -> None:
    clips = [replace(clip(f"a{i}", "a"), fold=1) for i in range(6)]
    assert sorted(c.fold or 0 for c in deal(clips, 3)) == [1, 1, 2, 2, 3, 3]


def test_clips_without_labels_are_spread_evenly() -> None:
    clips = [Clip(str(i), "file:///x", 10, "1") for i in range(8)]
    assert sorted(Counter(c.fold for c in deal(clips, 4)).values()) == [2, 2, 2, 2]


@pytest.mark.parametrize("n_clips", [0, 2])
def test_there_must_be_a_source_for_each_fold(n_clips: int) -> None:
    with pytest.raises(ConfigError, match=f"there are only {n_clips} sources"):
        deal([clip(str(i), "a") for i in range(n_clips)], 3)


def test_a_source_goes_to_the_fold_with_the_fewest_clips_of_its_classes() -> None:
    """Worked out by hand: of sources of 3, 2 and 1 clips of one class, the last one joins the second."""
    clips = [clip(f"{source}{i}", "x", source) for source, n in (("c", 1), ("a", 3), ("b", 2)) for i in range(n)]
    fold_of = {c.source_id: c.fold for c in deal(clips, 2)}
    assert fold_of == {"a": 1, "b": 2, "c": 2}


def test_dealt_folds_keep_sources_together_and_classes_even() -> None:
    paths = [f"{label}/{source}-{part}.wav" for label in ("a", "b") for source in range(8) for part in range(3)]
    clips = layouts.from_folders(files(*paths))
    clips = [layouts.Regexes(source=r"^(.+)-").apply(clip) for clip in clips]
    dealt = manifest.clips_of(folds.deal(manifest.to_table(clips), 4))
    folds_of_source: dict[str, set[int | None]] = {}
    for clip in dealt:
        folds_of_source.setdefault(clip.source_id, set()).add(clip.fold)
    assert all(len(found) == 1 for found in folds_of_source.values())
    for label in ("a", "b"):
        counts = [sum(clip.fold == fold and clip.labels == (label,) for clip in dealt) for fold in (1, 2, 3, 4)]
        assert counts == [6, 6, 6, 6]
    with pytest.raises(ConfigError, match="only 16 sources"):
        folds.deal(manifest.to_table(clips), 17)
