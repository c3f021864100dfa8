"""A row of shards as sound: what was written is heard again, from what the run directory says."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from audioclf import layouts, manifest, storage
from audioclf.audio import segment
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.config import ExtractConfig, HearConfig
from audioclf.errors import ConfigError, StorageError
from audioclf.extraction import UnitExtractor
from audioclf.pipelines import extract, hear
from tests.unit.extracting import Wav, list_clips, noise

SPEC = get_front_end("panns32k")
LENGTH = 16_000
"""Of a segment: half a second."""


class Silent:
    """In place of the progress of a run on Ray."""

    def __init__(self, *args: Any):
        pass

    def add(self, counts: dict[str, Any]) -> None:
        pass

    def shown(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def summary(self) -> dict[str, Any]:
        return {}


def in_turn(stages: Any, units: Any) -> Iterator[dict[str, Any]]:
    """Units one after the other, in this process."""
    (stage,) = stages
    with contextlib.closing(UnitExtractor(stage.plan)) as extractor:
        for unit in units:
            yield extractor(unit).to_dict()


def extracted(folder: Path, monkeypatch: pytest.MonkeyPatch, clips: list[manifest.Clip], **flags: Any) -> Path:
    """The run directory of jobs/extract.py over these clips, made without Ray."""
    manifest.write(manifest.to_table(clips), storage.to_uri(str(folder / "m.parquet")))
    monkeypatch.setattr(extract, "run_units", in_turn)
    monkeypatch.setattr(extract, "Progress", Silent)
    monkeypatch.setattr(extract.cluster, "connect", lambda: None)
    config = ExtractConfig(
        str(folder / "m.parquet"), str(folder / "run"), "panns32k", 0.5, max_reject_fraction=1.0, **flags
    )
    assert extract.run(config) == "ok"
    return folder / "run"


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [row for file in sorted((run / "data").iterdir()) for row in pq.read_table(file).to_pylist()]


def heard(run: Path, row: dict[str, Any], output: Path) -> np.ndarray:
    """The samples of the WAV file that the job writes for a row."""
    config = HearConfig(str(run), row["clip_id"], str(output), row["segment_index"], row["copy_index"])
    assert hear.run(config) == "ok"
    assert soundfile.info(output).subtype == "FLOAT"
    samples, rate = soundfile.read(output, dtype="float32")
    assert rate == 32_000
    return samples


def check_is_the_pictures(run: Path, row: dict[str, Any], output: Path) -> np.ndarray:
    samples = heard(run, row, output)
    stored = np.frombuffer(row["log_mel"], np.float16).reshape(SPEC.n_features, -1)
    made = log_mel(segment.cut(samples, LENGTH), SPEC)
    np.testing.assert_array_equal(made.astype(np.float16), stored)
    assert row["valid_frames"] == SPEC.n_frames(min(len(samples), LENGTH))
    return samples


def test_what_is_heard_has_the_picture_that_is_stored(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav(noise(1.2), 44_100, "in/x/a.wav", "FLOAT")
    wav(np.stack([noise(0.7, 1), noise(0.7, 2)], axis=1), 32_000, "in/y/b.ogg", "VORBIS")
    for name in ("rain", "wind"):
        wav(noise(0.3, ord(name[0])), 8_000, f"backgrounds/{name} 1.wav")
    run = extracted(
        tmp_path, monkeypatch, list_clips(tmp_path), augment=("ts", "stretch-pitch", "bg", "noise", "drc"), copies=2,
        backgrounds=str(tmp_path / "backgrounds"), seed=3,
    )  # fmt: skip
    rows = rows_of(run)
    assert len(rows) == (3 + 2) * 11
    for row in rows:
        samples = check_is_the_pictures(run, row, tmp_path / "x.wav")
        if row["transform_set"] == "ts" and row["segment_index"] == 0:
            assert len(samples) == round(LENGTH * json.loads(row["transform_params"])["stretch"])  # whole, not cut


def test_an_original_is_the_recording_itself(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).normal(scale=0.7, size=64_000).astype(np.float32)  # beyond ±1 too
    wav(samples, 32_000, "in/x/a.wav", "FLOAT")
    files = layouts.list_audio(storage.to_uri(str(tmp_path / "in"))).files
    clips = layouts.from_csv(files, "path,labels,start_s,end_s\nx/a.wav,dog,0.25,1.5\n", "x.csv")
    run = extracted(tmp_path, monkeypatch, clips)
    second = heard(run, rows_of(run)[1], tmp_path / "x.wav")
    np.testing.assert_array_equal(second, samples[24_000:40_000])
    last = heard(run, rows_of(run)[2], tmp_path / "x.wav")
    np.testing.assert_array_equal(last, samples[40_000:48_000])


def test_the_finer_engine_is_heard_where_it_was_used(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch) -> None:
    wav(noise(0.5), 32_000, "in/x/a.wav")
    run = extracted(tmp_path, monkeypatch, list_clips(tmp_path), augment=("ts",), engine="r3")
    check_is_the_pictures(run, rows_of(run)[1], tmp_path / "x.wav")


def test_a_bucket_is_heard_too(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch, s3_bucket: str) -> None:
    path = wav(noise(0.5), 32_000, "in/x/a.wav")
    storage.write_bytes(f"s3://{s3_bucket}/in/x/a.wav", path.read_bytes())
    storage.write_bytes(f"s3://{s3_bucket}/noises/rain 1.wav", path.read_bytes())
    clips = layouts.from_folders(layouts.list_audio(f"s3://{s3_bucket}/in").files)
    run = extracted(tmp_path, monkeypatch, clips, augment=("bg",), backgrounds=f"s3://{s3_bucket}/noises")
    check_is_the_pictures(run, rows_of(run)[1], tmp_path / "x.wav")


@pytest.fixture
def run(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a clip of three segments, and copies by ts and bg; and of one that can't be read."""
    wav(noise(1.0), 32_000, "in/x/a.wav", "FLOAT")
    (tmp_path / "in" / "x" / "broken.wav").write_bytes(b"RIFF")
    wav(noise(0.3, 1), 32_000, "backgrounds/rain.wav")
    how = {"augment": ("ts", "bg"), "backgrounds": str(tmp_path / "backgrounds")}
    return extracted(tmp_path, monkeypatch, list_clips(tmp_path), **how)


def ask(run: Path, clip_id: str, index: int = 0, copy: int = 0) -> None:
    hear.run(HearConfig(str(run), clip_id, str(run.parent / "x.wav"), index, copy))


def test_what_is_not_there_is_answered_with_what_is(run: Path) -> None:
    clip_id = rows_of(run)[0]["clip_id"]
    with pytest.raises(ConfigError, match=rf"no clip abc; there are {clip_id}$"):
        ask(run, "abc")
    with pytest.raises(ConfigError, match=rf"clip {clip_id} has no segment 3; there are 0, 1, 2$"):
        ask(run, clip_id, 3)
    with pytest.raises(ConfigError, match=r"segment 1 of .* has no copy 3; there are 0 \(none\), 1 \(ts\), 2 \(bg\)$"):
        ask(run, clip_id, 1, 3)
    assert not (run.parent / "x.wav").exists()


def test_what_was_rejected_is_answered_with_the_reason(run: Path) -> None:
    (reject,) = pq.read_table(run / "rejects").to_pylist()
    with pytest.raises(ConfigError, match=r"broken\.wav: was rejected: DecodeError: "):
        ask(run, reject["clip_id"])


def test_a_folder_that_is_no_extraction_is_named(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"backgrounds: not a run directory of jobs/extract\.py"):
        ask(run.parent / "backgrounds", "abc")


def test_a_clip_that_is_not_as_it_was_is_refused(run: Path) -> None:
    clip_id, path = rows_of(run)[0]["clip_id"], run.parent / "in" / "x" / "a.wav"
    os.utime(path, ns=(1, 1))
    with pytest.raises(ConfigError, match=r"a\.wav: fetch: the file changed after it was listed"):
        ask(run, clip_id)
    soundfile.write(path, noise(1.0, 7), 32_000, subtype="FLOAT")
    manifest.write(manifest.to_table(list_clips(run.parent)), storage.to_uri(str(run.parent / "m.parquet")))
    with pytest.raises(ConfigError, match=r"a\.wav: holds another sound than when its picture was made"):
        ask(run, clip_id)
    path.unlink()
    with pytest.raises(ConfigError, match=r"a\.wav: fetch: no such file"):
        ask(run, clip_id)
    manifest.write(manifest.to_table([]), storage.to_uri(str(run.parent / "m.parquet")))
    with pytest.raises(ConfigError, match=rf"m\.parquet: no clip {clip_id}"):
        ask(run, clip_id)


def test_a_background_that_is_not_as_it_was_is_refused(run: Path, wav: Wav) -> None:
    row, folder = rows_of(run)[0], run.parent / "backgrounds"
    os.utime(folder / "rain.wav", ns=(1, 1))
    with pytest.raises(StorageError, match=r"--backgrounds: .*rain\.wav: the file changed"):
        ask(run, row["clip_id"], 0, 2)
    (folder / "rain.wav").rename(folder / "wind.wav")
    with pytest.raises(ConfigError, match=r"backgrounds: the background recording rain\.wav is gone"):
        ask(run, row["clip_id"], 0, 2)
    ask(run, row["clip_id"], 0, 1)  # the others need none
