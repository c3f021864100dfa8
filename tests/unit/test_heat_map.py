"""The picture of a learned policy: what it says is what the rows say."""

import struct
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from audioclf import heat_map

SETS = ["ts", "ps1", "drc"]


def rows(classes: list[str]) -> list[dict[str, Any]]:
    """Changes from -0.2 up in steps of 0.037; `*` after the classes, as it is learned."""
    numbered = enumerate((label, name) for label in [*classes, "*"] for name in SETS)
    return [
        {
            "class": label,
            "transform_set": name,
            "shrunk": x,
            "low95": x - 0.1,
            "high95": x + 0.1,
            "weight": float(x < 0),
        }
        for i, (label, name) in numbered
        for x in [0.037 * i - 0.2]
    ]


def texts(chart: Figure) -> list[str]:
    return [text.get_text() for text in chart.findobj(Text)]


def cells(chart: Figure) -> list[Rectangle]:
    return [patch for patch in chart.axes[0].patches if isinstance(patch, Rectangle)]


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    return struct.unpack(">II", png[16:24])


def test_the_png_grows_with_the_classes() -> None:
    few, many = (size(heat_map.draw(rows([f"class {c}" for c in range(n)]), "title")) for n in (10, 50))
    assert many[0] == few[0]
    # each class has a row that its two lines of type (8.5 and 6 points) fit
    assert many[1] - few[1] >= 40 * (8.5 + 6) / 72 * heat_map.DPI


def test_the_numbers_are_those_of_the_rows() -> None:
    table = rows(["dog", "rain"])
    drawn = texts(heat_map.figure(table, "What helps"))
    for row in table:
        shrunk, low, high = (f"{row[name]:+.3f}".replace("-", "−") for name in ("shrunk", "low95", "high95"))
        assert drawn.count(shrunk) == 1
        assert drawn.count(f"{low} … {high}") == 1
    for text in ("What helps", "dog", "rain", "all classes (*)", *SETS, "not used"):
        assert text in drawn
    assert any("log-loss" in text and "negative helps" in text for text in drawn)


def test_each_number_stands_in_its_cell() -> None:
    """A column for each set and a row for each class, all classes last wherever they come in the table."""
    table = rows(["dog", "rain"])
    chart = heat_map.figure(table[::-1], "title")
    axes = chart.axes[0]
    columns = {label.get_text(): x for x, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)}
    lines = {label.get_text(): y for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    at = {text.get_text(): text.get_position() for text in axes.texts}
    for row in table:
        x, y = at[f"{row['shrunk']:+.3f}".replace("-", "−")]
        label = "all classes (*)" if row["class"] == "*" else row["class"]
        assert (x, round(y)) == (columns[row["transform_set"]], lines[label])
    assert lines["all classes (*)"] == 2


def test_what_helps_is_blue_what_harms_is_red_and_what_is_not_used_is_hatched() -> None:
    table = rows(["dog", "rain"])
    chart = heat_map.figure(table, "title")
    plain = [patch for patch in cells(chart) if not patch.get_hatch()]
    hatched = [patch for patch in cells(chart) if patch.get_hatch()]
    assert len(plain) == len(table)
    for row, patch in zip(table, plain, strict=True):
        red, _, blue = to_rgb(patch.get_facecolor())
        assert (blue > red) == (row["shrunk"] < 0)
    assert len(hatched) == sum(row["weight"] == 0 for row in table) > 0
    low, high = chart.axes[1].get_ylim()  # the colour bar
    assert -low == pytest.approx(high) == pytest.approx(max(abs(row["shrunk"]) for row in table))


def test_all_zero_and_one_class_can_be_drawn() -> None:
    table = [row | {"shrunk": 0.0, "low95": -0.0, "high95": 0.0, "weight": 0.0} for row in rows(["dog"])]
    assert "0.000 … 0.000" in texts(heat_map.figure(table, "title"))
    size(heat_map.draw(table, "title"))


@pytest.mark.parametrize("name", ["a $b$ c", "$\\frac{$", "猫", "line\nbreak", "x" * 200, "", "_%^{}~#&"])
def test_any_class_name_can_be_drawn(name: str) -> None:
    """Dollar signs are no formula, other scripts no warning; a long name does not squeeze the picture."""
    png = heat_map.draw(rows([name]), name)
    assert size(png)[0] < 12 * heat_map.DPI
    if "$" in name:
        assert name in texts(heat_map.figure(rows([name]), "title"))


def test_of_very_many_classes_those_that_change_most_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat_map, "MOST_CLASSES", 3)
    chart = heat_map.figure(rows([f"class {i}" for i in range(7)]), "title")  # from -0.2 at class 0 to 0.54 at class 6
    assert [text.get_text() for text in chart.axes[0].get_yticklabels()] == ["class 5", "class 6", "all classes (*)"]
    assert any("the 3 of 8 classes that change most" in text for text in texts(chart))
