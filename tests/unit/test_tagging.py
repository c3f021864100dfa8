"""A unit of recordings to windows to tags, against probabilities computed by hand from the same network."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from audioclf import export, manifest, models, storage, tagging
from audioclf.audio.frontend import get_front_end
from audioclf.audio.log_mel import log_mel
from audioclf.labels import Vocabulary
from audioclf.manifest import Clip
from audioclf.tagging import Tagger, TagPlan
from audioclf.units import Unit
from audioclf.windows import WindowCutter, Windows
from tests.untrained import untrained

SPEC = get_front_end("logmel44k")
NAMES = ("cat", "dog", "rain")
Wav = Callable[..., Path]


VOCABULARY = Vocabulary(NAMES, False, ("/m/1", "/m/2", "/m/3"))


@pytest.fixture
def network(tmp_path: Path) -> models.Network:
    """A network with random weights, saved as tmp_path/checkpoint."""
    loaded = untrained(VOCABULARY)
    loaded.save(storage.to_uri(str(tmp_path / "checkpoint")))
    (tmp_path / "network.onnx").write_bytes(export.export(loaded, ["onnx"], 128)["model.onnx"])
    return loaded.network


@pytest.fixture
def tag(tmp_path: Path, network: models.Network) -> Callable[..., dict[str, Any]]:
    """Tags recordings as one unit into tmp_path/run."""

    def run(
        clips: list[Clip],
        window_s: float = 1.0,
        hop_s: float = 1.0,
        unit: Unit | None = None,
        onnx: bool = True,
        **how: Any,
    ) -> dict[str, Any]:
        uri, output, checkpoint, onnx_uri = (
            storage.to_uri(str(tmp_path / name)) for name in ("m.parquet", "run", "checkpoint", "network.onnx")
        )
        manifest.write(manifest.to_table(clips), uri)
        fields = {"top_k": 3, "thresholds": (0.0,) * 3, "batch_size": 2, **how}
        windows = Windows(uri, SPEC, window_s, hop_s)
        cutter = WindowCutter(windows)
        tagger = Tagger(TagPlan(windows, output, checkpoint, onnx_uri if onnx else None, VOCABULARY, **fields))
        unit = unit or Unit(0, 0, len(clips))
        counts = tagger(unit, cutter(unit))
        cutter.close()
        return counts

    return run


def clip_of(path: Path, name: str = "rec", **fields: Any) -> Clip:
    stat = path.stat()
    return Clip(name, path.as_uri(), stat.st_size, str(stat.st_mtime_ns), **fields)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=0.1, size=round(seconds * 44_100)).astype(np.float32)


def table(folder: Path, kind: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / "run" / kind / "unit-0000000.parquet").to_pylist()


def by_hand(network: models.Network, samples: np.ndarray) -> np.ndarray:
    """[C] probabilities of a window shorter than a patch: its last frame is repeated up to the patch's end."""
    picture = log_mel(samples, SPEC).astype(np.float16).astype(np.float32)
    patch = np.pad(picture, ((0, 0), (0, (network.patch_frames or 0) - picture.shape[1])), mode="edge")
    with torch.inference_mode():
        return torch.softmax(network(torch.from_numpy(patch)[None]), 1)[0].numpy()


def test_each_window_gets_the_probabilities_of_its_own_sound(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]], network: models.Network
) -> None:
    samples = noise(2.5)
    moment = datetime(2024, 1, 31, 12, tzinfo=UTC)
    counts = tag([clip_of(wav(samples, 44_100, subtype="FLOAT"), recorded_at=moment)])
    assert (counts["clips"], counts["windows"], counts["tags"], counts["audio_s"]) == (1, 3, 9, 2.5)
    tags = table(tmp_path, "data")
    assert [(t["start_s"], t["end_s"]) for t in tags[::3]] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert {t["recorded_at"] for t in tags} == {moment}
    windows = [np.pad(samples[i : i + 44_100], (0, max(0, i + 44_100 - len(samples)))) for i in (0, 44_100, 88_200)]
    expected = np.stack([by_hand(network, window) for window in windows])
    for i, of_window in enumerate(expected):
        found = tags[3 * i : 3 * i + 3]
        order = np.argsort(-of_window)
        assert [(t["tag"], t["mid"], t["rank"]) for t in found] == [
            (NAMES[c], f"/m/{c + 1}", rank) for rank, c in enumerate(order, start=1)
        ]
        np.testing.assert_allclose([t["probability"] for t in found], of_window[order], atol=1e-5)
    (recording,) = table(tmp_path, "parts")
    mean = expected.mean(0)
    assert (recording["status"], recording["duration_s"], recording["windows"]) == ("ok", 2.5, 3)
    assert recording["top_tag"] == NAMES[mean.argmax()]
    assert recording["top_probability"] == pytest.approx(mean.max(), abs=1e-5)


def test_a_hop_shorter_than_a_window_overlaps(tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]) -> None:
    tag([clip_of(wav(noise(2.0), 44_100))], hop_s=0.5, top_k=1)
    assert [t["start_s"] for t in table(tmp_path, "data")] == [0.0, 0.5, 1.0]


def test_neighbours_touch_though_a_window_is_no_whole_number_of_samples(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]
) -> None:
    tag([clip_of(wav(noise(3.0), 44_100))], window_s=0.3333, hop_s=0.3333, top_k=1)
    tags = table(tmp_path, "data")
    assert [t["end_s"] for t in tags[:-1]] == pytest.approx([t["start_s"] for t in tags[1:]], abs=1e-9)
    assert tags[-1]["end_s"] == 3.0


def test_only_the_likeliest_tags_above_the_threshold_are_written(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]
) -> None:
    clip = clip_of(wav(noise(1.0), 44_100))
    tag([clip])
    every = [t["probability"] for t in table(tmp_path, "data")]
    assert every == sorted(every, reverse=True)
    tag([clip], top_k=1)
    assert [t["probability"] for t in table(tmp_path, "data")] == every[:1]
    tag([clip], thresholds=((every[1] + every[2]) / 2,) * 3)
    assert [t["probability"] for t in table(tmp_path, "data")] == every[:2]
    counts = tag([clip], thresholds=(1.0,) * 3)
    assert table(tmp_path, "data") == []  # committed all the same
    assert (counts["tags"], counts["windows"]) == (0, 1)


def test_batches_do_not_change_the_tags(tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]) -> None:
    clip = clip_of(wav(noise(5.0), 44_100))
    found = []
    for batch_size in (1, 3, 8):
        tag([clip], batch_size=batch_size)
        found.append(table(tmp_path, "data"))
    for other in found[1:]:
        assert [(t["start_s"], t["tag"]) for t in other] == [(t["start_s"], t["tag"]) for t in found[0]]
        np.testing.assert_allclose(
            [t["probability"] for t in other], [t["probability"] for t in found[0]], atol=1e-5
        )  # a convolution's sums depend on the batch in the last bits


def test_a_broken_recording_is_rejected_and_remembered(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]
) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    counts = tag([clip_of(broken, "broken"), clip_of(wav(noise(1.0), 44_100), "good")])
    assert (counts["clips"], counts["clips_rejected"]) == (2, 1)
    (reject,) = table(tmp_path, "rejects")
    assert (reject["clip_id"], reject["error"], reject["segment_index"]) == ("broken", "DecodeError", None)
    recordings = table(tmp_path, "parts")
    assert [(r["clip_id"], r["status"], r["windows"]) for r in recordings] == [
        ("broken", "rejected", 0),
        ("good", "ok", 1),
    ]
    assert {t["clip_id"] for t in table(tmp_path, "data")} == {"good"}


def test_tags_of_a_part_lie_where_the_part_lies_in_the_file(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]]
) -> None:
    """As the start_s of a shard's row: seconds in the file."""
    tag([clip_of(wav(noise(6.0), 44_100), start_s=3.0, end_s=4.5)], top_k=1)
    assert [(t["start_s"], t["end_s"]) for t in table(tmp_path, "data")] == [(3.0, 4.0), (4.0, 4.5)]


def test_an_uncommitted_unit_has_no_data_file(
    tmp_path: Path, wav: Wav, tag: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails on the way, the tags' file is the last to be written."""
    written: list[str] = []
    write = storage.write_bytes

    def note(uri: str, data: bytes) -> None:
        written.append(uri.rsplit("/", 2)[-2])
        write(uri, data)

    monkeypatch.setattr(tagging.storage, "write_bytes", note)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"")
    tag([clip_of(broken)])
    assert written[-3:] == ["rejects", "parts", "data"]
