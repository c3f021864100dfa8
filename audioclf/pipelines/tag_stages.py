"""What workers of a tagging run do with a unit: all of it, or one half each. Apart from what the driver imports: with
ONNX Runtime a worker takes half the memory and time to start that torch costs it.
"""

from collections.abc import Callable
from typing import Any

from audioclf.tagging import Tagger, TagPlan
from audioclf.units import Attempt
from audioclf.windows import Part, Window, WindowCutter, Windows

MOST_SENT_BYTES = 128 << 20
"""Of a unit's windows that are sent from one worker to another. Units are planned for half of it; there are more where
a length was guessed too short, or where a recording of hours can only be read from its beginning."""

CutUnit = tuple[Attempt, list[Window | Part] | None]
"""None: too many to be sent."""


def tag_units(plan: TagPlan) -> Callable[[Attempt], dict[str, Any]]:
    """Windows and network in one worker: nothing is sent around."""
    cut, tag = WindowCutter(plan.windows), Tagger(plan)
    return lambda attempt: tag(attempt.unit, cut(attempt.unit, attempt.careful))


def cut_units(windows: Windows) -> Callable[[Attempt], CutUnit]:
    """The first half: a unit's windows."""
    cut = WindowCutter(windows)

    def cut_unit(attempt: Attempt) -> CutUnit:
        heard, n_bytes = [], 0
        for item in cut(attempt.unit, attempt.careful):
            n_bytes += item.log_mel.nbytes if isinstance(item, Window) else 0
            if n_bytes <= MOST_SENT_BYTES:
                heard.append(item)
            else:  # read to the end all the same: here, where attempts are counted, a poisoned file is found out
                heard.clear()
        return attempt, heard if n_bytes <= MOST_SENT_BYTES else None

    return cut_unit


def tag_windows(plan: TagPlan) -> Callable[[CutUnit], dict[str, Any]]:
    """The second half, on a GPU; where windows were too many to be sent, both halves."""
    cut, tag = WindowCutter(plan.windows), Tagger(plan)

    def tag_unit(found: CutUnit) -> dict[str, Any]:
        attempt, heard = found
        return tag(attempt.unit, cut(attempt.unit, attempt.careful) if heard is None else heard)

    return tag_unit
