"""What workers of a tagging run do with a unit: all of it, or one half each. Apart from what the driver imports: with
ONNX Runtime a worker takes half the memory and time to start that torch costs it.
"""

from collections.abc import Callable
from typing import Any

from audioclf.tagging import Tagger, TagPlan
from audioclf.units import Attempt, Unit
from audioclf.windows import Part, Window, WindowCutter, Windows

CutUnit = tuple[Unit, list[Window | Part]]


def tag_units(plan: TagPlan) -> Callable[[Attempt], dict[str, Any]]:
    """Windows and network in one worker: nothing is sent around."""
    cut, tag = WindowCutter(plan.windows), Tagger(plan)
    return lambda attempt: tag(attempt.unit, cut(attempt.unit, attempt.careful))


def cut_units(windows: Windows) -> Callable[[Attempt], CutUnit]:
    """The first half: a unit's windows, which fit one block."""
    cut = WindowCutter(windows)
    return lambda attempt: (attempt.unit, list(cut(attempt.unit, attempt.careful)))


def tag_windows(plan: TagPlan) -> Callable[[CutUnit], dict[str, Any]]:
    """The second half, on a GPU."""
    tag = Tagger(plan)
    return lambda cut: tag(*cut)
