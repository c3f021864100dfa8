"""Tagging by two kinds of workers: what is sent from one to the other is bounded, and the rows are those of one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from audioclf import manifest, storage
from audioclf.audio.frontend import get_front_end
from audioclf.labels import Vocabulary
from audioclf.manifest import Clip
from audioclf.pipelines import tag_stages
from audioclf.tagging import TagPlan
from audioclf.units import Attempt, Unit
from audioclf.windows import Part, Windows
from tests.untrained import untrained

RATE, SECONDS = 44_100, 6

pytestmark = pytest.mark.filterwarnings("default")  # a worker's manifest stays open as long as it lives


@pytest.fixture
def plan(tmp_path: Path) -> TagPlan:
    """For a recording that can be read from its beginning only, in windows of a second."""
    vocabulary = Vocabulary(("cat", "dog"), multi_label=False)
    untrained(vocabulary).save(storage.to_uri(str(tmp_path / "checkpoint")))
    path = tmp_path / "long.flac"
    soundfile.write(path, np.random.default_rng(0).normal(scale=0.1, size=RATE * SECONDS), RATE)
    clip = Clip("long", path.as_uri(), path.stat().st_size, str(path.stat().st_mtime_ns))
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table([clip]), uri)
    windows = Windows(uri, get_front_end("logmel44k"), window_s=1.0, hop_s=1.0)
    output, checkpoint = (storage.to_uri(str(tmp_path / name)) for name in ("run", "checkpoint"))
    return TagPlan(windows, output, checkpoint, None, vocabulary, top_k=2, thresholds=(0.0, 0.0), batch_size=4)


def tags(plan: TagPlan) -> pa.Table:
    return pq.read_table(Path(storage.local_path(plan.output_uri) or "", "data", "unit-0000000.parquet"))


@pytest.mark.parametrize(("windows_sent", "is_sent"), [(SECONDS, True), (SECONDS - 1, False)])
def test_windows_beyond_the_bound_are_made_where_they_are_classified(
    plan: TagPlan, monkeypatch: pytest.MonkeyPatch, windows_sent: int, is_sent: bool
) -> None:
    attempt = Attempt(Unit(0, 0, 1), careful=False)
    tag_stages.tag_units(plan)(attempt)
    expected = tags(plan)
    assert len(expected) == 2 * SECONDS
    monkeypatch.setattr(tag_stages, "MOST_SENT_BYTES", windows_sent * plan.windows.picture_bytes)
    cut = tag_stages.cut_units(plan.windows)(attempt)
    _, heard = cut
    if is_sent:
        assert heard is not None
        assert len(heard) == SECONDS + 1
        assert isinstance(heard[-1], Part)
    else:
        assert heard is None
    counts = tag_stages.tag_windows(plan)(cut)
    assert (counts["clips"], counts["windows"]) == (1, SECONDS)
    assert tags(plan).equals(expected)
