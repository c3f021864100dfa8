"""Background recordings: found with their faults named, decoded at the front end's rate."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr

from audioclf import backgrounds, storage
from audioclf.errors import ConfigError, StorageError

Wav = Callable[..., Path]
NOISE = np.random.default_rng(0).normal(scale=0.1, size=20_000).astype(np.float32)


def test_all_audio_below_a_folder_is_found_by_its_name(tmp_path: Path, wav: Wav) -> None:
    for name in ("b.wav", "sub folder/a.flac", "A.WAV"):
        wav(NOISE, 8_000, name)
    (tmp_path / "notes.txt").write_text("where these were recorded")
    found = backgrounds.find(str(tmp_path))
    assert [one.name for one in found] == ["A.WAV", "b.wav", "sub%20folder/a.flac"]
    assert found[1].uri == (tmp_path / "b.wav").as_uri()
    assert found[1].etag == str((tmp_path / "b.wav").stat().st_mtime_ns)


def test_they_are_found_in_a_bucket_too(tmp_path: Path, wav: Wav, s3_bucket: str) -> None:
    path = wav(NOISE, 8_000, "b.wav", "FLOAT")
    storage.write_bytes(f"s3://{s3_bucket}/bg/sub/b.wav", path.read_bytes())
    found = backgrounds.find(f"s3://{s3_bucket}/bg")
    assert [one.name for one in found] == ["sub/b.wav"]
    np.testing.assert_array_equal(backgrounds.loader(found, 8_000)("sub/b.wav"), NOISE)


def test_a_folder_without_audio_is_no_folder_of_backgrounds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ConfigError, match=rf"--backgrounds {tmp_path}: no audio file below it"):
        backgrounds.find(str(tmp_path))
    with pytest.raises(ConfigError, match="missing: no such folder"):
        backgrounds.find(str(tmp_path / "missing"))


def test_a_broken_background_is_named_at_the_start(tmp_path: Path, wav: Wav) -> None:
    wav(NOISE, 8_000, "good.wav")
    (tmp_path / "poor.wav").write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match=r"--backgrounds: .*poor\.wav: "):
        backgrounds.find(str(tmp_path))


def test_an_empty_background_is_named_at_the_start(tmp_path: Path, wav: Wav) -> None:
    wav(np.zeros(0), 8_000, "empty.wav")
    with pytest.raises(ConfigError, match=r"--backgrounds: .*empty\.wav: the file holds no samples"):
        backgrounds.find(str(tmp_path))


def test_it_is_resampled_as_a_whole(tmp_path: Path, wav: Wav) -> None:
    wav(np.stack([NOISE, 3 * NOISE], axis=1), 8_000, "a.wav", "FLOAT")
    samples = backgrounds.loader(backgrounds.find(str(tmp_path)), 44_100)("a.wav")
    expected = soxr.resample(2 * NOISE, 8_000, 44_100, quality="HQ")
    assert (samples.shape, samples.dtype) == ((110_250,), np.float32)
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_of_a_long_one_the_beginning_is_taken(tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backgrounds, "MAX_S", 1.5)
    wav(NOISE, 8_000, "a.wav", "FLOAT")
    samples = backgrounds.loader(backgrounds.find(str(tmp_path)), 8_000)("a.wav")
    np.testing.assert_array_equal(samples, NOISE[:12_000])


def test_each_name_gives_its_own_recording_however_many_are_held(tmp_path: Path, wav: Wav) -> None:
    names = [f"{i}.wav" for i in range(2 * backgrounds.HELD)]
    for i, name in enumerate(names):
        wav(NOISE[: 100 * (i + 1)], 8_000, name, "FLOAT")
    load = backgrounds.loader(backgrounds.find(str(tmp_path)), 8_000)
    for i in (*range(len(names)), 0, 3, 0):
        np.testing.assert_array_equal(load(names[i]), NOISE[: 100 * (i + 1)])


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_one_that_changed_or_went_away_stops_the_job(tmp_path: Path, wav: Wav, what: str) -> None:
    path = wav(NOISE, 8_000, "a.wav")
    load = backgrounds.loader(backgrounds.find(str(tmp_path)), 8_000)
    if what == "changed":
        os.utime(path, ns=(1, 1))
    else:
        path.unlink()
    with pytest.raises(StorageError, match=r"--backgrounds: .*a\.wav: "):
        load("a.wav")


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_one_that_is_no_sound_stops_the_job(tmp_path: Path, wav: Wav, rate: int) -> None:
    samples = NOISE.copy()
    samples[10_000] = np.nan
    wav(samples, 8_000, "a.wav", "FLOAT")
    with pytest.raises(StorageError, match=r"--backgrounds: .*a\.wav: .*NaN"):
        backgrounds.loader(backgrounds.find(str(tmp_path)), rate)("a.wav")


def test_one_that_is_damaged_behind_its_header_stops_the_job(tmp_path: Path, wav: Wav) -> None:
    path = wav(NOISE, 8_000, "a.flac")
    data = bytearray(path.read_bytes())
    data[200:] = bytes(len(data) - 200)
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"--backgrounds: .*a\.flac: "):
        backgrounds.loader(backgrounds.find(str(tmp_path)), 8_000)("a.flac")
