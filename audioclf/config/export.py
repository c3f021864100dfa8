"""Flags of jobs/export.py."""

from dataclasses import dataclass
from typing import Literal

from audioclf.config.checks import require


@dataclass(frozen=True)
class ExportConfig:
    """Flags of jobs/export.py."""

    checkpoint: str
    """Checkpoint directory, the run directory of jobs/train.py, or a published network (mn04, or mn04:FILE)."""
    output: str
    """Run directory to write: model.onnx, model.torchscript, export.json."""
    format: Literal["torchscript", "onnx", "both"] = "both"
    """What to write."""
    frames: int | None = None
    """Frames of the segments that the exported network takes; default: any number, where it can take any."""
    dry_run: bool = False
    """Print the plan; do nothing."""

    def __post_init__(self) -> None:
        require(self.frames is None or self.frames >= 1, "--frames must be 1 or more")

    @property
    def formats(self) -> tuple[str, ...]:
        return ("torchscript", "onnx") if self.format == "both" else (self.format,)
