"""What a report is made of, and how it becomes HTML. Whatever comes from outside is escaped by the template."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, ClassVar

import jinja2
from plotly import offline

from audioclf import storage


@dataclass(frozen=True)
class Facts:
    """Names and values, as tiles."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Chart:
    """A chart of Plotly: its traces and, where it differs from the page's, its layout."""

    kind: ClassVar[str] = "chart"
    traces: Sequence[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height_px: int = 320
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sound:
    """A picture of a sound, the sound, and what is to be said of it.

    Attributes:
        title: above it.
        lines: below it.
        picture, audio: as data URIs; None where the file could not be read.
    """

    title: str
    lines: Sequence[str]
    picture: str | None = None
    audio: str | None = None


@dataclass(frozen=True)
class Sounds:
    """Sounds side by side."""

    kind: ClassVar[str] = "sounds"
    sounds: Sequence[Sound]


@dataclass(frozen=True)
class Pictures:
    """Images as data URIs, each with what it shows."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Explorer:
    """Events that the reader filters by tag and probability, over the recordings and over the hours.

    Attributes:
        events: `[recording, tag, start_s, end_s, probability, hour of the day or None]`, the first two by number.
        recordings, tags: their names.
    """

    kind: ClassVar[str] = "explorer"
    events: Sequence[Sequence[Any]]
    recordings: Sequence[str]
    tags: Sequence[str]


Block = Facts | Chart | Table | Sounds | Pictures | Explorer


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: of the section.
        blocks: in order.
        note: what the reader has to know to read them right: what is sampled, what an interval means.
    """

    title: str
    blocks: Sequence[Block]
    note: str = ""


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """A self-contained HTML page.

    Args:
        title: what the run is.
        subtitle: where it lies.
        sections: those without blocks are left out.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    folder = resources.files("audioclf.report")
    template = environment.from_string(folder.joinpath("page.html").read_text())
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=[section for section in sections if section.blocks],
        style=folder.joinpath("page.css").read_text(),
        script=folder.joinpath("page.js").read_text(),
        plotly=offline.get_plotlyjs(),
    )


def bars(names: Sequence[str], lengths: Sequence[float], unit: str, title: str = "") -> Chart:
    """Lying bars, the first one on top."""
    trace = {
        "type": "bar", "orientation": "h", "x": list(lengths)[::-1], "y": [words(name) for name in names][::-1],
    }  # fmt: skip
    layout = {"xaxis": {"title": {"text": unit}}, "yaxis": {"type": "category"}}
    return Chart([trace], layout, 90 + 23 * len(names), title)


def name_of(uri: str) -> str:
    """A file and the folder that it lies in, which often tells its class."""
    return "/".join(storage.display(uri).rsplit("/", 2)[-2:])


def words(text: str) -> str:
    """Outside text for a chart: Plotly reads tags such as <b> in its labels, and &lt; as a less-than sign."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
