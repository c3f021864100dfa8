"""The doctor as a process of its own: on a machine that has everything, and on one that lacks much."""

import socket
from pathlib import Path

import pytest

from tests.buckets import new_bucket, use_store

from .conftest import Jobs


def test_all_is_well_with_s3(
    jobs: Jobs, s3_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_store(s3_environment, monkeypatch)
    log = jobs.succeed("doctor", "--store", f"s3://{new_bucket()}/x", str(tmp_path))
    assert "contact, list, put, get, delete: all work" in log
    assert "12 checks: 0 failed" in log


def test_what_is_missing_or_broken_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "soxr.py").write_text("raise RuntimeError('broken')")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        jobs = Jobs({
            "PATH": str(tmp_path), "PYTHONPATH": str(tmp_path), "AWS_ACCESS_KEY_ID": "hugo",
            "AWS_SECRET_ACCESS_KEY": "geheim", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{reserved.getsockname()[1]}",
        })  # fmt: skip
        done = jobs.run("doctor", "--store", "s3://bucket")
    assert done.returncode == 1, done.stderr
    for words in (
        "soxr can't be imported: RuntimeError: broken",
        "rubberband program is missing", "apt-get install rubberband-cli",
        "the store can't be reached", "check AWS_ENDPOINT_URL",
        "3 failed",
    ):  # fmt: skip
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "hugo" not in done.stderr
    assert "geheim" not in done.stderr
