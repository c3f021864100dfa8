"""Draw what each transform set changes for each class."""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from audioclf.labels import EVERY_CLASS

COLOURS = "RdBu_r"
"""ColorBrewer's, told apart by the colour-blind: blue helps, red harms."""
MAX_LABEL = 40
TALL = 20
"""With more classes than this, the sets are named below, too."""
MOST_CLASSES = 100
"""More than this would take minutes to draw, and nobody would read them."""
CELL_IN = (1.15, 0.36)
DPI = 120


def draw(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """A PNG of `figure`.

    Args:
        rows: see `figure`.
        title: above it.
    """
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a class named in another script: a box
        FigureCanvasAgg(figure(rows, title)).print_png(png, metadata={"Software": None})
    return png.getvalue()


def figure(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Classes x transform sets, coloured by the change of log-loss; each cell with its number and 95 % interval. Of
    very many classes, those that change most.

    Args:
        rows: of a learned policy: a row for each class and transform set, `*` for all classes, with the fields class,
            transform_set, shrunk, low95, high95 (nats) and weight (0: hatched, since the policy does not use it).
        title: above it.
    """
    sets = list(dict.fromkeys(row["transform_set"] for row in rows))
    classes = list(dict.fromkeys(row["class"] for row in rows))
    if len(classes) > MOST_CLASSES:
        title += f"\n(the {MOST_CLASSES} of {len(classes):,} classes that change most)"
        rows, classes = _most_changed(rows, classes)
    classes.sort(key=lambda name: name == EVERY_CLASS)  # all classes last
    limit = max((abs(row["shrunk"]) for row in rows), default=0.0) or 1.0
    colours = ScalarMappable(Normalize(-limit, limit), COLOURS)
    labels = [_label(name) for name in classes]
    label_in = 0.085 * max(map(len, labels), default=0)
    size = (max(label_in + CELL_IN[0] * len(sets) + 1.7, 6.0), CELL_IN[1] * len(classes) + 2.2)
    chart = Figure(size, dpi=DPI, layout="constrained")
    axes = chart.add_subplot()
    for row in rows:
        _cell(axes, colours, sets.index(row["transform_set"]), classes.index(row["class"]), row)
    _axes(axes, sets, labels, classes)
    bar = chart.colorbar(colours, ax=axes, fraction=0.05, pad=0.03, shrink=min(1.0, 4.5 / size[1]), anchor=(0, 1))
    bar.set_label("change of log-loss (nats), negative helps")
    hatched = Patch(facecolor="white", edgecolor="0.45", hatch="////", label="not used")
    chart.legend(handles=[hatched], loc="outside lower right", frameon=False, fontsize=9)
    chart.suptitle(title, parse_math=False, fontsize=12)
    return chart


def _most_changed(
    rows: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The rows of the classes with the greatest changes, and of all together."""
    change = dict.fromkeys(classes, 0.0)
    for row in rows:
        change[row["class"]] = max(change[row["class"]], abs(row["shrunk"]))
    change[EVERY_CLASS] = math.inf
    kept = {*sorted(change, key=lambda name: -change[name])[:MOST_CLASSES]}
    return [row for row in rows if row["class"] in kept], [name for name in classes if name in kept]


def _cell(axes: Any, colours: ScalarMappable, x: int, y: int, row: Mapping[str, Any]) -> None:
    colour = tuple(map(float, colours.to_rgba(row["shrunk"])))
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    if row["weight"] == 0:
        axes.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=(0.35, 0.35, 0.35, 0.4), hatch="////", lw=0)
        )
    ink = "black" if _luminance(colour) > 0.2 else "white"
    for text, down, points in (
        (_number(row["shrunk"]), -0.16, 8.5),
        (f"{_number(row['low95'])} … {_number(row['high95'])}", 0.24, 6),
    ):
        # the halo keeps the hatching off the figures
        halo = [withStroke(linewidth=2.5, foreground=colour)]
        axes.text(x, y + down, text, ha="center", va="center", color=ink, fontsize=points, path_effects=halo)


def _axes(axes: Any, sets: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> None:
    axes.set_xlim(-0.5, len(sets) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xticks(range(len(sets)), sets, parse_math=False)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.tick_params(length=0, labeltop=True, labelbottom=len(labels) > TALL)
    axes.spines[:].set_visible(False)
    if EVERY_CLASS in classes[1:]:
        axes.axhline(len(classes) - 1.5, color="black", linewidth=1.5)


def _label(name: str) -> str:
    name = "all classes (*)" if name == EVERY_CLASS else " ".join(name.split())
    return name if len(name) <= MAX_LABEL else name[: MAX_LABEL - 1] + "…"


def _number(value: float) -> str:
    """Three decimals with a sign, "0.000" without."""
    text = f"{value:+.3f}" if math.isfinite(value) else "?"
    return text[1:] if text in ("+0.000", "-0.000") else text.replace("-", "−")


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of sRGB, 0 to 1.

    Source: WCAG 2.1; above 0.18, black letters have more contrast than white ones.
    """
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
