"""A unit of clips to a shard: copies, parts, partial clips, retries and unit bounds."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from audioclf import conservation, extraction, layouts, manifest, parquet_files, shards, storage
from audioclf.audio.log_mel import log_mel
from audioclf.augmentation import Augmentation
from audioclf.errors import SchemaError
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.units import Unit
from tests.unit.extracting import SPEC, Wav, list_clips, noise, picture, rows, run


def test_output_does_not_depend_on_unit_bounds_or_storage(tmp_path: Path, wav: Wav, s3_bucket: str) -> None:
    for i in range(4):
        path = wav(noise(0.3 + 0.2 * i, i), 44_100, f"in/x/{i}.flac", "PCM_16")
        storage.write_bytes(f"s3://{s3_bucket}/in/x/{i}.flac", path.read_bytes())
    clips = list_clips(tmp_path)
    run(tmp_path, clips, [Unit(0, 0, 4)], transform_sets=("ps2",))
    together = rows(tmp_path)
    for file in (tmp_path / "run" / "data").iterdir():
        file.unlink()
    run(tmp_path, clips, [Unit(0, 0, 1), Unit(1, 1, 4)], transform_sets=("ps2",))
    assert rows(tmp_path) == together
    there = layouts.from_folders(layouts.list_audio(f"s3://{s3_bucket}/in").files)
    run(tmp_path / "s3", there, [Unit(0, 0, 4)], transform_sets=("ps2",))
    assert [{**r, "uri": ""} for r in rows(tmp_path / "s3")] == [{**r, "uri": ""} for r in together]


def test_the_same_unit_twice_is_the_same_file(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav")
    clips = list_clips(tmp_path)
    file = tmp_path / "run" / "data" / "unit-0000000.parquet"
    written = []
    for _ in range(2):
        run(tmp_path, clips, [Unit(0, 0, 1)], transform_sets=("ts",))
        written.append(file.read_bytes())
    assert written[0] == written[1]


def test_a_part_of_a_file_starts_where_it_lies_in_the_file(tmp_path: Path, wav: Wav) -> None:
    samples = noise(2.0)
    wav(samples, 44_100, "in/x/a.wav", "FLOAT")
    files = layouts.list_audio(storage.to_uri(str(tmp_path / "in"))).files
    clips = layouts.from_csv(files, "path,labels,start_s,end_s\nx/a.wav,dog,0.5,1.5\n", "x.csv")
    run(tmp_path, clips, [Unit(0, 0, 1)])
    made = rows(tmp_path)
    assert [r["start_s"] for r in made] == [0.5, 1.0]
    expected = log_mel(samples[44_100 : 44_100 + 22_050], SPEC).astype(np.float16)
    np.testing.assert_array_equal(picture(made[1]), expected)


@pytest.mark.parametrize(("seconds", "segments"), [(1.0, 2), (1.04, 2), (1.06, 3), (0.01, 1)])
def test_a_tail_below_a_tenth_of_a_segment_is_left_out(tmp_path: Path, wav: Wav, seconds: float, segments: int) -> None:
    wav(noise(seconds), 44_100, "in/x/a.wav")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)])
    assert [r["segment_index"] for r in rows(tmp_path)] == list(range(segments))


def test_a_clip_that_changed_or_went_away_is_rejected_as_such(tmp_path: Path, wav: Wav) -> None:
    changed, gone = (wav(noise(0.1), 44_100, f"in/x/{name}.wav") for name in ("changed", "gone"))
    clips = list_clips(tmp_path)
    os.utime(changed, ns=(1, 1))
    gone.unlink()
    (counts,), _ = run(tmp_path, clips, [Unit(0, 0, 2)])
    assert counts.reasons == {"ChangedClipError": 1, "MissingClipError": 1}
    assert rows(tmp_path) == []  # committed all the same


def test_another_sample_rate_is_resampled_onto_the_same_picture(tmp_path: Path, wav: Wav) -> None:
    time = np.arange(44_100) / 44_100
    wav(0.5 * np.sin(2 * np.pi * 1000 * time), 44_100, "in/x/a.wav", "FLOAT")
    wav(0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000), 16_000, "in/x/b.wav", "FLOAT")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 2)], segment_s=1.0)
    a, b = (picture(r).astype(np.float32) for r in rows(tmp_path))
    loud = a[:, 5:-5] > 0  # away from the ends, where the filters ring
    assert loud.any()
    np.testing.assert_allclose(b[:, 5:-5][loud], a[:, 5:-5][loud], atol=0.1)


def test_counts_and_front_end_travel_in_the_file(tmp_path: Path, wav: Wav) -> None:
    path = wav(np.zeros(44_100), 44_100, "in/x/a.wav")
    (counts,), totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)])
    uri = storage.to_uri(str(tmp_path / "run" / "data" / "unit-0000000.parquet"))
    stored = shards.read_unit(uri, [])[1]
    assert stored == counts.to_store()
    assert counts.to_dict() == {**stored, "augment_s": {}, "augmented": {}}
    assert (stored["bytes"], stored["audio_s"], stored["segments"]) == (path.stat().st_size, 1.0, 2)
    assert totals.flags == {"silent": 1}
    assert shards.front_end_of(parquet_files.metadata(uri), "x") == SPEC


def test_a_shard_that_is_damaged_names_itself(tmp_path: Path) -> None:
    storage.write_bytes(storage.to_uri(str(tmp_path / "data" / "unit-0000000.parquet")), b"not Parquet at all")
    with pytest.raises(SchemaError, match=r"unit-0000000\.parquet"):
        shards.load([str(tmp_path)], copies=False)


def test_pictures_are_stored_without_a_dictionary(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)])
    group = pq.ParquetFile(tmp_path / "run" / "data" / "unit-0000000.parquet").metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    (column,) = [c for c in columns if c.path_in_schema.startswith("log_mel")]
    assert (column.encodings, column.has_dictionary_page) == (("RLE", "PLAIN"), False)
    assert column.compression == "ZSTD"


def test_labels_and_folds_are_those_of_originals_alone(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/dog/a.wav")
    wav(noise(0.5, 1), 44_100, "in/cat/b.wav")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 2)], transform_sets=("ps1",))
    labels, folds = shards.all_labels([storage.to_uri(str(tmp_path / "run"))])
    assert sorted(labels) == [["cat"], ["dog"]]
    assert folds == [None, None]


def test_a_clip_becomes_its_log_mel(tmp_path: Path, wav: Wav) -> None:
    samples = noise(1.0)
    wav(samples, 44_100, "in/x/noise.wav", "FLOAT")
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], segment_s=1.0)
    examples = shards.load([str(tmp_path / "run")], copies=False)
    np.testing.assert_array_equal(examples.log_mel[0], log_mel(samples, SPEC).astype(np.float16))
    assert (totals.clips, totals.audio_s) == ({"ok": 1}, 1.0)


def test_a_long_clip_becomes_segments_and_a_short_one_is_padded(tmp_path: Path, wav: Wav) -> None:
    wav(np.ones(44_100 * 5 // 2) * 0.1, 44_100, "in/x/long.wav")  # 2.5 s: two whole segments and a half
    wav(np.ones(4_410) * 0.1, 44_100, "in/x/short.wav")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 2)], segment_s=1.0)
    found = sorted((Path(r["uri"]).name, r["segment_index"], r["start_s"], r["valid_frames"]) for r in rows(tmp_path))
    assert found == [
        ("long.wav", 0, 0.0, 44), ("long.wav", 1, 1.0, 44), ("long.wav", 2, 2.0, 22), ("short.wav", 0, 0.0, 5),
    ]  # fmt: skip


def test_a_broken_clip_is_a_reject_and_its_neighbours_are_not(tmp_path: Path, wav: Wav) -> None:
    wav(np.ones(100), name="in/x/good.wav")
    (tmp_path / "in" / "x" / "bad.wav").write_bytes(b"RIFF")
    wav(np.zeros(0), name="in/x/empty.wav")
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 3)], segment_s=1.0)
    assert totals.clips == {"ok": 1, "rejected": 2}
    rejects = pq.read_table(tmp_path / "run" / "rejects").to_pylist()
    assert sorted((Path(r["uri"]).name, r["error"], r["stage"]) for r in rejects) == [
        ("bad.wav", "DecodeError", "decode"), ("empty.wav", "EmptyClipError", "decode"),
    ]  # fmt: skip
    assert all(r["segment_index"] is None and r["message"] for r in rejects)


def test_a_segment_that_is_no_sound_is_rejected_and_its_clip_is_partial(tmp_path: Path, wav: Wav) -> None:
    samples = noise(1.5)
    samples[30_000] = np.nan
    wav(samples, 44_100, "in/x/a.wav", "FLOAT")
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("ps1",))
    assert totals.clips == {"partial": 1}
    assert totals.rows == {"segments": {"written": 2, "rejected": 1}, "copies": {"written": 2, "rejected": 1}}
    (reject,) = pq.read_table(tmp_path / "run" / "rejects").to_pylist()
    assert (reject["segment_index"], reject["copy_index"], reject["error"]) == (1, None, "DecodeError")
    assert "NaN" in reject["message"]


def test_the_parts_of_a_long_recording_are_the_whole(tmp_path: Path, wav: Wav, s3_bucket: str) -> None:
    path = wav(noise(3.3), 44_100, "in/x/a.wav", "PCM_24")
    clips = list_clips(tmp_path)
    run(tmp_path, clips, [Unit(0, 0, 1)])
    whole = rows(tmp_path)
    parts = [Unit(0, 0, 1, 0, 3, 7), Unit(1, 0, 1, 3, 4, 7), Unit(2, 0, 1, 4, 7, 7)]
    _, totals = run(tmp_path / "parts", clips, parts)
    assert rows(tmp_path / "parts") == whole
    assert (totals.clips, totals.rows["segments"], totals.bytes) == (
        {"ok": 1},
        {"written": 7},
        pytest.approx(path.stat().st_size, abs=3),
    )
    assert totals.audio_s == pytest.approx(3.3)
    with open(path, "rb") as file:
        storage.write_bytes(f"s3://{s3_bucket}/in/x/a.wav", file.read())
    there = layouts.from_folders(layouts.list_audio(f"s3://{s3_bucket}/in").files)
    run(tmp_path / "s3", there, parts)
    assert [{**r, "uri": ""} for r in rows(tmp_path / "s3")] == [{**r, "uri": ""} for r in whole]


@pytest.mark.parametrize(
    ("form", "subtype"), [("AIFF", "PCM_16"), ("WAV", "ULAW"), ("W64", "PCM_24"), ("FLAC", "PCM_16")]
)
def test_what_only_looks_like_plain_pcm_is_read_in_parts_too(tmp_path: Path, wav: Wav, form: str, subtype: str) -> None:
    """Units are planned from sizes: a decoder's streams must do where a file can't be read by byte range."""
    path = tmp_path / "in" / "x" / "a.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, noise(3.3), 44_100, format=form, subtype=subtype)
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)])
    whole = rows(tmp_path)
    run(tmp_path / "parts", list_clips(tmp_path), [Unit(0, 0, 1, 0, 3, 7), Unit(1, 0, 1, 3, 7, 7)])
    assert rows(tmp_path / "parts") == whole


def test_a_stream_that_ends_early_loses_nothing_silently(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav(noise(3.0), 44_100, "in/x/a.flac", "PCM_16")
    read = soundfile.SoundFile.read

    def short(self: soundfile.SoundFile, n: int, **how: Any) -> np.ndarray:
        return read(self, max(0, min(n, 60_000 - self.tell())), **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", short)
    parts = [Unit(0, 0, 1, 0, 2, 6), Unit(1, 0, 1, 2, 6, 6)]
    _, totals = run(tmp_path, list_clips(tmp_path), parts)
    assert totals.clips == {"partial": 1}
    assert totals.rows["segments"] == {"written": 3, "rejected": 3}


def test_a_recording_that_is_not_as_planned_is_rejected(tmp_path: Path, wav: Wav) -> None:
    wav(noise(2.0), 44_100, "in/x/a.wav")
    units = [Unit(0, 0, 1, 0, 3, 6), Unit(1, 0, 1, 3, 6, 6)]
    _, totals = run(tmp_path, list_clips(tmp_path), units)
    assert (totals.clips, totals.reasons) == ({"rejected": 1}, {"ChangedClipError": 2})


def test_a_file_that_kills_its_process_is_rejected_when_care_is_taken(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        wav(noise(0.5, ord(name)), 44_100, f"in/x/{name}.flac", "PCM_16")
    clips = list_clips(tmp_path)
    monkeypatch.setattr(extraction, "try_clip", die_over_b)
    uri = storage.to_uri(str(tmp_path / "m.parquet"))
    manifest.write(manifest.to_table(clips), uri)
    plan = ExtractPlan(uri, storage.to_uri(str(tmp_path / "run")), SPEC, 0.5, "digest", Augmentation())
    extractor = UnitExtractor(plan)
    extractor(Unit(0, 0, 3), careful=True)
    extractor.close()
    totals = conservation.check(plan, [Unit(0, 0, 3)], manifest.read(uri).table)
    assert (totals.clips, totals.reasons) == ({"ok": 2, "rejected": 1}, {"CrashedClipError": 1})
    assert [Path(r["uri"]).name for r in rows(tmp_path)] == ["a.flac", "c.flac"]


def die_over_b(clip: dict[str, Any], plan: ExtractPlan, unit: Unit) -> None:
    """As a decoder with a fault does."""
    if clip["uri"].endswith("b.flac"):
        os.kill(os.getpid(), signal.SIGSEGV)
