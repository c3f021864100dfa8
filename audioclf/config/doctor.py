"""Flags of jobs/doctor.py."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DoctorConfig:
    """Flags of jobs/doctor.py."""

    store: tuple[str, ...] = ()
    """Folders and s3://bucket/prefix that jobs are to write to: a small file is written there and removed."""
