"""The rival that jobs/tag.py is measured against computes what the published code does; jobs/tag.py what it does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from audioclf import checkpoint, export, layouts, manifest, parquet_files, storage
from audioclf.tagging import Tagger, TagPlan
from audioclf.units import Unit
from audioclf.windows import WindowCutter, Windows
from benchmarks import published_tagger
from benchmarks.published_tagger import PublishedTagger

FIVE_SECONDS = 5 * published_tagger.SAMPLE_RATE


def existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {'/'.join(path.parts[-2:])} below AUDIOCLF_SHARED")
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the benchmark; threads that wait for a busy core take many times as long."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope="module")
def tagger(shared: Path) -> PublishedTagger:
    return PublishedTagger(f"mn04:{existing(shared / 'weights' / 'mn04_as_mAP_432.pt')}")


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, np.ndarray]:
    """What the published code computes."""
    with np.load(existing(shared / "weights" / "mn04_reference.npz")) as stored:
        return dict(stored)


def test_log_mel_is_the_published_one(published: dict[str, np.ndarray]) -> None:
    assert len(published["waveform"]) == 4
    for waveform, theirs in zip(published["waveform"], published["log_mel"], strict=True):
        np.testing.assert_allclose(published_tagger.log_mel(torch.from_numpy(waveform)), theirs, atol=1e-4)


def test_logits_are_the_published_ones(tagger: PublishedTagger, published: dict[str, np.ndarray]) -> None:
    for waveform, theirs in zip(published["waveform"], published["logits"], strict=False):
        np.testing.assert_allclose(tagger.logits(torch.from_numpy(waveform)), theirs, atol=1e-3)


# librosa.load imports audioread, which imports what later Pythons no longer have.
@pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)' is deprecated:DeprecationWarning")
def test_files_are_loaded_as_published(tagger: PublishedTagger, published: dict[str, np.ndarray], shared: Path) -> None:
    folder = existing(shared / "data" / "esc10" / "audio")
    assert len(published["clip"]) == 20
    for clip, theirs in zip(published["clip"], published["logits"], strict=True):
        waveform = published_tagger.load(str(folder / str(clip)))[:FIVE_SECONDS]
        waveform = torch.nn.functional.pad(waveform, (0, FIVE_SECONDS - len(waveform)))
        np.testing.assert_allclose(tagger.logits(waveform), theirs, atol=1e-3, err_msg=str(clip))


def test_tags_are_the_likeliest_classes(
    tagger: PublishedTagger, published: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_tagger, "load", lambda path: torch.from_numpy(published["waveform"][int(path)]))
    for i, logits in enumerate(published["logits"][:4]):
        theirs = 1 / (1 + np.exp(-logits.astype(np.float64)))
        classes, probabilities = zip(*tagger.top(str(i), 3), strict=True)
        assert list(classes) == sorted(range(527), key=lambda c: -theirs[c])[:3]
        np.testing.assert_allclose(probabilities, theirs[list(classes)], atol=1e-4)


# As above.
@pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_our_tags_are_those_of_the_published_code(
    runtime: str, tagger: PublishedTagger, published: dict[str, np.ndarray], shared: Path, tmp_path: Path
) -> None:
    """Over windows of two seconds of real clips: every class of every window."""
    name = f"mn04:{existing(shared / 'weights' / 'mn04_as_mAP_432.pt')}"
    loaded = checkpoint.load(checkpoint.find(name))
    n_classes, window = len(loaded.vocabulary), 2 * published_tagger.SAMPLE_RATE
    clips = [existing(shared / "data" / "esc10" / "audio" / str(clip)).resolve() for clip in published["clip"][:4]]
    wanted = {clip.as_uri() for clip in clips}
    files = [info for info in layouts.list_audio(clips[0].parents[1].as_uri()).files if info.uri in wanted]
    uri, output, onnx_uri = (storage.to_uri(str(tmp_path / part)) for part in ("m.parquet", "run", "network.onnx"))
    manifest.write(manifest.to_table(layouts.from_flat(files)), uri)
    windows = Windows(uri, loaded.front_end, 2.0, 2.0)
    n_frames = loaded.front_end.n_frames(window)
    storage.write_bytes(onnx_uri, export.export(loaded, ["onnx"], n_frames)["model.onnx"])
    plan = TagPlan(
        windows, output, checkpoint.find(name), onnx_uri if runtime == "onnx" else None, loaded.vocabulary,
        n_classes, (0.0,) * n_classes, 1,
    )  # fmt: skip
    cutter, unit = WindowCutter(windows), Unit(0, 0, 4)
    Tagger(plan)(unit, cutter(unit))
    cutter.close()
    rows = parquet_files.read(f"{output}/data/{unit.name}").to_pylist()
    found = {(row["uri"], row["start_s"], row["tag"]): row["probability"] for row in rows}
    assert len(found) == len(rows) == 4 * 3 * n_classes
    for clip in clips:
        waveform = published_tagger.load(str(clip))
        for start in range(0, len(waveform), window):
            part = waveform[start : start + window]
            theirs = torch.sigmoid(tagger.logits(torch.nn.functional.pad(part, (0, window - len(part)))))
            ours = [
                found[clip.as_uri(), start / published_tagger.SAMPLE_RATE, name] for name in loaded.vocabulary.names
            ]
            np.testing.assert_allclose(ours, theirs, atol=1e-3)
