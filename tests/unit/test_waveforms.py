"""Shards of waveforms: what extraction keeps, and the pictures made of them later."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from audioclf import conservation, layouts, manifest, schema, shards, storage, waveforms
from audioclf.audio.frontend import FrontEnd, get_front_end
from audioclf.audio.pcm import AnyFrontEnd, get_any_front_end, to_int16
from audioclf.augmentation import Augmentation
from audioclf.errors import ConfigError, SchemaError
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.shards import Examples
from audioclf.units import Unit

Wav = Callable[..., Path]
PCM44K, LOGMEL44K = get_any_front_end("pcm44k"), get_front_end("logmel44k")


def noise(n_samples: int, scale: float = 0.1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=n_samples).astype(np.float32)


def extract(
    folder: Path, front_end: AnyFrontEnd, segment_s: float = 0.5, transform_sets: tuple[str, ...] = (), copies: int = 1
) -> Examples:
    """All clips below folder/in as one unit, nothing lost."""
    clips = layouts.from_folders(layouts.list_audio(storage.to_uri(str(folder / "in"))).files)
    uri, output = (storage.to_uri(str(folder / name)) for name in ("m.parquet", front_end.name))
    manifest.write(manifest.to_table(clips), uri)
    augmentation = Augmentation(transform_sets, copies)
    plan, units = ExtractPlan(uri, output, front_end, segment_s, "digest", augmentation), [Unit(0, 0, len(clips))]
    with contextlib.closing(UnitExtractor(plan)) as extractor:
        extractor(units[0])
    conservation.check(plan, units, manifest.read(uri).table)
    return shards.load([output], copies=True)


def rows(folder: Path, front_end: AnyFrontEnd) -> list[dict]:
    return pq.read_table(folder / front_end.name / "data").to_pylist()


def test_16_bit_pcm_is_kept_as_it_is(tmp_path: Path, wav: Wav) -> None:
    path = wav(noise(30_000, 0.3), 44_100, "in/x/a.wav")
    stored, _ = soundfile.read(path, dtype="int16")
    examples = extract(tmp_path, PCM44K)
    assert examples.front_end == PCM44K
    assert examples.pictures.shape == (2, 1, 22_050)
    assert examples.pictures.dtype == np.int16
    assert examples.valid_frames.tolist() == [22_050, 7_950]
    np.testing.assert_array_equal(examples.pictures.ravel()[:30_000], stored)
    assert not examples.pictures[1, 0, 7_950:].any()


@pytest.mark.parametrize(
    "spec", [LOGMEL44K, FrontEnd("other", 44_100, 512, 400, 100, 40, 50.0, 20_000.0, center=False)]
)
def test_of_16_bit_pcm_the_pictures_are_those_of_extraction(tmp_path: Path, wav: Wav, spec: FrontEnd) -> None:
    wav(noise(30_000), 44_100, "in/x/a.wav")
    wav(np.zeros(100), 44_100, "in/y/b.wav")
    later, direct = waveforms.as_log_mel(extract(tmp_path, PCM44K), spec), extract(tmp_path, spec)
    assert later.front_end == direct.front_end
    assert later.log_mel.dtype == direct.log_mel.dtype == np.float16
    np.testing.assert_array_equal(later.log_mel, direct.log_mel)
    np.testing.assert_array_equal(later.valid_frames, direct.valid_frames)
    assert later.valid_frames.dtype == direct.valid_frames.dtype
    assert later.columns == direct.columns
    kept = [{name: row[name] for name in ("flags", "content_digest", "start_s")} for row in rows(tmp_path, PCM44K)]
    assert kept == [{name: row[name] for name in kept[0]} for row in rows(tmp_path, spec)]


def test_of_resampled_stereo_they_differ_by_rounding_alone(tmp_path: Path, wav: Wav) -> None:
    wav(np.stack([noise(22_050), noise(22_050, seed=1)], axis=1), 48_000, "in/x/a.wav", "FLOAT")
    later, direct = waveforms.as_log_mel(extract(tmp_path, PCM44K), LOGMEL44K), extract(tmp_path, LOGMEL44K)
    assert not np.array_equal(later.log_mel, direct.log_mel)
    # Rounding is noise of 1/12 of a squared step: 77 dB below this sound, whose bands in turn vary by 30.
    near = direct.log_mel > direct.log_mel.max() - 40
    np.testing.assert_allclose(later.log_mel[near], direct.log_mel[near], atol=0.15)


def test_a_shard_of_waveforms_is_plain_parquet(tmp_path: Path, wav: Wav) -> None:
    wav(noise(22_050), 44_100, "in/x/a.wav")
    examples = extract(tmp_path, PCM44K)
    table = pq.read_table(tmp_path / "pcm44k" / "data")
    assert "log_mel" not in table.schema.names
    assert table.schema.field("pcm").metadata == {b"dtype": b"int16", b"shape": b"[1, 22050]"}
    assert table.schema.metadata[schema.META_VERSION].decode() == schema.SHARD_VERSION
    np.testing.assert_array_equal(np.frombuffer(table["pcm"][0].as_py(), "<i2"), examples.pictures[0, 0])
    others = [name for name in table.schema.names if name != "pcm"]
    extract(tmp_path, LOGMEL44K)
    pictures = pq.read_table(tmp_path / "logmel44k" / "data")
    assert others == [name for name in pictures.schema.names if name != "log_mel"]


def test_copies_are_kept_too(tmp_path: Path, wav: Wav) -> None:
    path = wav(noise(22_050), 44_100, "in/x/a.wav")
    samples, _ = soundfile.read(path, dtype="float32")
    examples = extract(tmp_path, PCM44K, transform_sets=("gain", "shift"))
    assert examples.columns["transform_set"] == ["none", "gain", "shift"]
    _, gain, shift = (json.loads(row["transform_params"]) for row in rows(tmp_path, PCM44K))
    louder = samples * np.float32(10 ** (gain["gain_db"] / 20))
    np.testing.assert_array_equal(examples.pictures[1, 0], to_int16(louder))
    np.testing.assert_array_equal(examples.pictures[2, 0], to_int16(np.roll(samples, round(shift["shift_s"] * 44_100))))


def test_a_copy_beyond_full_scale_is_clipped_and_flagged(tmp_path: Path, wav: Wav) -> None:
    """The original has steps of 0.8, far longer than three samples: what is 2 dB louder is beyond full scale."""
    square = np.sign(np.sin(np.arange(22_050) / 30)).astype(np.float32) * 0.8
    wav(square, 44_100, "in/x/a.wav", "FLOAT")
    examples = extract(tmp_path, PCM44K, transform_sets=("gain",), copies=8)
    made = rows(tmp_path, PCM44K)
    assert made[0]["flags"] == []
    gains = [json.loads(row["transform_params"])["gain_db"] for row in made[1:]]
    assert min(gains) < 1.9 < 2 < max(gains)
    assert [row["flags"] for row in made[1:]] == [["clipped"] if 0.8 * 10 ** (g / 20) > 1 else [] for g in gains]
    loudest = examples.pictures[1 + int(np.argmax(gains)), 0]
    assert set(loudest.tolist()) <= {32_767, -32_768, 0}
    assert len({row["content_digest"] for row in made}) == 1


@pytest.mark.parametrize(("n_beyond", "flags"), [(2, []), (3, ["clipped"])])
def test_a_single_peak_beyond_full_scale_is_no_clipping(
    tmp_path: Path, wav: Wav, n_beyond: int, flags: list[str]
) -> None:
    samples = noise(22_050)
    samples[[0, 5, 9]] = -1.5
    samples[100 : 100 + n_beyond] = 1.5
    wav(samples, 44_100, "in/x/a.wav", "FLOAT")
    examples = extract(tmp_path, PCM44K)
    assert examples.pictures[0, 0, 100] == 32_767
    assert [row["flags"] for row in rows(tmp_path, PCM44K)] == [flags]


def test_flags_of_the_recording_stay_and_come_once(tmp_path: Path, wav: Wav) -> None:
    loud = np.clip(noise(22_050, 2.0), -3, 3)
    wav(loud, 44_100, "in/x/a.wav", "FLOAT")
    wav(np.zeros(22_050), 44_100, "in/x/b.wav")
    extract(tmp_path, PCM44K)
    assert sorted(row["flags"] for row in rows(tmp_path, PCM44K)) == [["clipped"], ["silent"]]


def test_some_of_the_rows_are_taken(tmp_path: Path, wav: Wav) -> None:
    for i in range(3):
        wav(noise(22_050, seed=i), 44_100, f"in/x/{i}.wav")
    examples = extract(tmp_path, PCM44K)
    some = examples.take(np.array([2, 0]))
    np.testing.assert_array_equal(some.pictures, examples.pictures[[2, 0]])
    assert some.front_end == PCM44K
    assert len(some) == 2


def test_waveforms_are_no_pictures(tmp_path: Path, wav: Wav) -> None:
    wav(noise(22_050), 44_100, "in/x/a.wav")
    examples = extract(tmp_path, PCM44K)
    with pytest.raises(SchemaError, match=r"hold waveforms \(pcm44k\), no log-mel pictures"):
        _ = examples.log_mel
    with pytest.raises(ConfigError, match=r"panns32k takes 32000 Hz, the shards hold 44100 Hz \(pcm44k\): extract"):
        waveforms.as_log_mel(examples, get_front_end("panns32k"))
    pictures = extract(tmp_path, LOGMEL44K)
    with pytest.raises(ConfigError, match=r"hold log-mel pictures \(logmel44k\), no waveforms; extract pcm32k or"):
        waveforms.as_log_mel(pictures, LOGMEL44K)
    with pytest.raises(SchemaError, match=r"log-mel pictures \(logmel44k\) against waveforms \(pcm44k\)"):
        shards.load([str(tmp_path / "logmel44k"), str(tmp_path / "pcm44k")], copies=False)
