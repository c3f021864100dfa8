"""What is shown while a job runs is what its units say."""

import logging
import queue
import time
from typing import Any

import pytest

from audioclf.pipelines import progress
from audioclf.pipelines.progress import Progress


class Recorded:
    """Stands in for ray.util.metrics.Counter."""

    values: dict[tuple[str, str | None], float] = {}  # noqa: RUF012

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]):
        self._name = name

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0  # Ray refuses others
        assert tags["job"] == "extract"
        key = self._name, tags.get("reason", tags.get("stage"))
        self.values[key] = self.values.get(key, 0) + value


def unit(clips: int, rejected: int, **reasons: int) -> dict[str, Any]:
    return {
        "clips": clips,
        "clips_rejected": rejected,
        "audio_s": 5.0 * clips,
        "bytes": 1000 * clips,
        "reasons": reasons,
        "seconds": {"decode": 1.5},
        "augment_s": {"ts": 0.25},
    }


def test_metrics_and_summary_say_the_same(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress.metrics, "Counter", Recorded)
    Recorded.values.clear()
    shown = Progress("extract", 20, time.monotonic())
    with caplog.at_level(logging.INFO, "audioclf"), shown.shown():
        shown.add(unit(10, 0))
        shown.add(unit(10, 3, DecodeError=2, EmptyClipError=1))
    assert "20/20 clips" in caplog.messages[-1]
    assert "3 rejected (2 DecodeError, 1 EmptyClipError), 0 s left" in caplog.messages[-1]
    summary = shown.summary()
    assert (summary["units"], summary["clips"], summary["audio_s"], summary["bytes"]) == (2, 20, 100.0, 20_000)
    assert Recorded.values == {
        ("audioclf_clips", None): summary["clips"],
        ("audioclf_clips_rejected", None): summary["clips_rejected"],
        ("audioclf_audio_s", None): summary["audio_s"],
        ("audioclf_bytes", None): summary["bytes"],
        ("audioclf_rejects", "DecodeError"): 2,
        ("audioclf_rejects", "EmptyClipError"): 1,
        ("audioclf_stage_seconds", "decode"): summary["seconds"]["decode"],
        ("audioclf_stage_seconds", "augment ts"): 0.5,
    }
    assert summary["rejects_by_reason"] == {"DecodeError": 2, "EmptyClipError": 1}


def test_a_line_comes_also_while_no_unit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away for half a minute must not look like a job that hangs."""
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.001)
    said: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(progress.log, "info", lambda form, text: said.put(text))
    with Progress("extract", 20, time.monotonic()).shown():
        for _ in range(3):
            assert said.get(timeout=60) == "extract: 0/20 clips, 0/s, 0 audio-h/h, 0 MB/s, 0 rejected"


def test_the_first_rejects_are_named(caplog: pytest.LogCaptureFixture) -> None:
    def row(i: int, segment: int | None = None, copy: int | None = None) -> dict[str, Any]:
        of_part = {"segment_index": segment, "copy_index": copy}
        return {"uri": f"file:///in/a%20{i}.wav", "error": "DecodeError", "message": "no sound", **of_part}

    with caplog.at_level("INFO", "audioclf"):
        progress.log_rejects([row(0), row(1, 7), row(2, 0, 3), *map(row, range(3, 12))], 12)
    said = [record.getMessage().strip() for record in caplog.records]
    assert said[:3] == [
        "rejected: /in/a 0.wav: DecodeError: no sound",
        "rejected: /in/a 1.wav, segment 7: DecodeError: no sound",
        "rejected: /in/a 2.wav, segment 0, copy 3: DecodeError: no sound",
    ]
    assert said[10:] == ["… and 2 more"]
