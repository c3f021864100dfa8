"""Flags of jobs/report.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportConfig:
    """Flags of jobs/report.py."""

    run: str
    """Run directory of jobs/extract.py, train.py, crossval.py, evaluate.py, policy.py (NAME.learned) or tag.py (of its
    output, the newest run)."""
    output: str | None = None
    """HTML file to write; default: report.html in the run directory."""
