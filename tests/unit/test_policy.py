"""Policy files: what they may say, and what training makes of them."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audioclf import policy
from audioclf.audio.augment import TRANSFORM_SETS
from audioclf.errors import ConfigError
from audioclf.policy import Policy, row_weights
from audioclf.spelling import composed

TEXT = """
classes:
  dog_bark: {ts: 1.0, bg: 0.5, ps1: 0}
  siren: {}
  "1 - odd: name": {drc: 2}
  "*": {ps1: 0.25}
"""


def test_a_policy_file_says_how_often_each_class_sees_each_set() -> None:
    found = policy.parse(TEXT, "p.yaml")
    assert found.weights(["dog_bark"]) == {"ts": 1.0, "bg": 0.5}
    assert found.weights(["siren"]) == {}
    assert found.weights(["1 - odd: name"]) == {"drc": 2.0}
    assert found.weights(["any other"]) == {"ps1": 0.25}
    assert found.weights([]) == {"ps1": 0.25}
    assert found.transform_sets == ("bg", "drc", "ps1", "ts")


def test_a_class_without_sets_may_be_left_blank() -> None:
    assert policy.parse("classes:\n  siren:\n", "p.yaml").weights(["siren"]) == {}


def test_without_a_star_a_class_that_is_not_named_has_no_copies() -> None:
    found = policy.parse("classes: {dog_bark: {ts: 1}}", "p.yaml")
    assert found.weights(["siren"]) == {}
    assert found.weights([]) == {}


def test_a_clip_of_several_labels_takes_the_least_weight() -> None:
    found = Policy({"dog": {"ts": 1.0, "ps1": 0.5}, "cat": {"ts": 0.25, "bg": 1.0}, "*": {"ps1": 2.0}})
    assert found.weights(["dog", "cat"]) == found.weights(["cat", "dog"]) == {"ts": 0.25}
    assert found.weights(["dog", "any other"]) == found.weights(["any other", "dog"]) == {"ps1": 0.5}
    assert found.weights(["dog", "cat", "any other"]) == {}


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    assert policy.read(str(path)) == policy.parse(TEXT, "p.yaml")
    with pytest.raises(ConfigError, match=r"missing\.yaml: no such file"):
        policy.read(str(tmp_path / "missing.yaml"))


FORM = "a policy has one field, classes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("classes:\n  dog: {ts: 1}\n  cat: {}\n  dog: {}", r"p\.yaml: dog: given twice \(line 2, line 4\)"),
        ("classes: {dog: {ts: 1, ts: 2}}", r"p\.yaml: ts: given twice"),
        ("classes: &x {dog: *x}", r"p\.yaml: classes: dog: .* is no transform set"),
        ("classes: !!timestamp foo", r"p\.yaml: not YAML"),
        ("[" * 3000, r"p\.yaml: not YAML"),
        ("classes: {dog: {ts: 1}", r"p\.yaml: not YAML: .*line 1"),
        ("", rf"p\.yaml: {FORM}"),
        ("dog: {ts: 1}", rf"p\.yaml: {FORM}"),
        ("classes:", rf"p\.yaml: {FORM}"),
        ("classes: [dog]", rf"p\.yaml: {FORM}"),
        ("classes: {dog: {ts: 1}}\nversion: 2", rf"p\.yaml: {FORM}"),
        ("classes: {7: {ts: 1}}", r"p\.yaml: classes: 7 is no text; put the class's name in quotes"),
        ("classes: {yes: {ts: 1}}", r"p\.yaml: classes: True is no text; put the class's name in quotes"),
        ("classes: {dog: ts}", r"p\.yaml: classes: dog: 'ts' should be SET: WEIGHT, or \{\} for no augmentation"),
        ("classes: {dog: [ts]}", r"p\.yaml: classes: dog: \['ts'\] should be SET: WEIGHT"),
        ("classes: {dog: {tz: 1}}", r"p\.yaml: classes: dog: 'tz' is no transform set; there are: ts, ps1, "),
        ("classes: {dog: {none: 1}}", r"p\.yaml: classes: dog: 'none' is no transform set; there are: ts, "),
        ("classes: {dog: {ts: -1}}", r"p\.yaml: classes: dog: ts: the weight -1 should be a number, 0 or more"),
        ("classes: {dog: {ts: .inf}}", r"p\.yaml: classes: dog: ts: the weight inf should be a number, 0 or more"),
        ("classes: {dog: {ts: .nan}}", r"p\.yaml: classes: dog: ts: the weight nan should be a number, 0 or more"),
        ("classes: {dog: {ts: often}}", r"p\.yaml: classes: dog: ts: the weight 'often' should be a number"),
        ("classes: {dog: {ts: true}}", r"p\.yaml: classes: dog: ts: the weight True should be a number"),
        ("classes: {dog: {ts: }}", r"p\.yaml: classes: dog: ts: the weight None should be a number"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        policy.parse(text, "p.yaml")


@given(
    st.dictionaries(
        # what can be seen, as labels are
        st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=8).map(composed),
        st.dictionaries(st.sampled_from(sorted(TRANSFORM_SETS)), st.floats(0, 1e6), max_size=4),
        max_size=5,
    )
)
def test_a_policy_survives_its_file(classes: dict[str, dict[str, float]]) -> None:
    assert policy.parse(Policy(classes).to_yaml(), "p.yaml") == Policy(classes)


def columns(*rows: tuple[str, int, str, list[str]]) -> dict[str, list[Any]]:
    names = ("clip_id", "segment_index", "transform_set", "labels")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


ROWS = columns(
    ("a", 0, "none", ["dog"]),
    ("a", 0, "ts", ["dog"]),
    ("a", 0, "ts", ["dog"]),
    ("a", 0, "ts", ["dog"]),
    ("a", 0, "bg", ["dog"]),
    ("a", 1, "none", ["dog"]),
    ("a", 1, "ts", ["dog"]),  # the others were rejected
    ("b", 0, "none", ["siren"]),
    ("b", 0, "ts", ["siren"]),
    ("b", 0, "ps1", ["siren"]),
    ("c", 0, "none", ["dog", "siren"]),
    ("c", 0, "ts", ["dog", "siren"]),
)


def test_the_rows_of_a_segment_and_set_share_the_sets_weight() -> None:
    weights = row_weights(Policy({"dog": {"ts": 0.6, "bg": 2.0}, "*": {"ps1": 0.5}}), ROWS)
    np.testing.assert_allclose(weights, [1, 0.2, 0.2, 0.2, 2, 1, 0.6, 1, 0, 0.5, 1, 0])


def test_without_a_policy_all_rows_are_alike() -> None:
    np.testing.assert_array_equal(row_weights(None, ROWS), np.ones(12))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.integers(0, 1), st.sampled_from(["ts", "bg", "ps1"]), st.integers(1, 4)
        ),
        max_size=8, unique_by=lambda one: one[:3],
    ),
    st.dictionaries(st.sampled_from(["ts", "bg", "drc"]), st.floats(0.01, 10)),
)  # fmt: skip
def test_the_weights_of_a_segments_rows_add_up_to_the_policys(
    copies: list[tuple[str, int, str, int]], weights: dict[str, float]
) -> None:
    rows = [(clip, segment, name, ["dog"]) for clip, segment, name, count in copies for _ in range(count)]
    np.random.default_rng(len(rows)).shuffle(rows)
    found = row_weights(Policy({"dog": weights}), columns(*rows))
    for clip, segment, name, _ in copies:
        mine = [weight for weight, row in zip(found, rows, strict=True) if row[:3] == (clip, segment, name)]
        assert sum(mine) == pytest.approx(weights.get(name, 0))


def test_a_class_that_no_clip_has_is_named_with_what_may_be_meant(caplog: pytest.LogCaptureFixture) -> None:
    chosen = Policy({"dog-bark": {"ts": 1.0}, "siren": {}, "*": {}})
    with caplog.at_level(logging.WARNING, "audioclf"):
        policy.warn_of_strangers(chosen, ["dog_bark", "siren"])
    assert [record.getMessage() for record in caplog.records] == [
        "the policy's class dog-bark is no clip's label; did you mean dog_bark?"
    ]
