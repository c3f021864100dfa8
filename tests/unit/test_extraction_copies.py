"""Augmented copies of a unit of clips: which are made, of what sounds, and what stops a run."""

import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from audioclf import backgrounds, storage
from audioclf.audio import augment, rubberband
from audioclf.audio.augment import TRANSFORM_SETS, Transform
from audioclf.audio.log_mel import log_mel
from audioclf.augmentation import Augmentation
from audioclf.errors import AugmentError, EngineError
from audioclf.extraction import ExtractPlan, UnitExtractor
from audioclf.policy import Policy
from audioclf.units import Unit
from tests.unit.extracting import SPEC, Wav, list_clips, noise, picture, rows, run


def test_copies_are_those_of_each_set_in_turn(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav", "FLOAT")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("ts", "ps1"), copies=2)
    made = rows(tmp_path)
    assert [(r["copy_index"], r["transform_set"]) for r in made] == [
        (0, "none"), (1, "ts"), (2, "ts"), (3, "ps1"), (4, "ps1"),
    ]  # fmt: skip
    parameters = [json.loads(r["transform_params"]) for r in made]
    assert parameters[0] == {}
    assert all(1 / p["stretch"] == pytest.approx(round(1 / p["stretch"], 2)) for p in parameters[1:3])
    assert all({*p} == {"stretch"} for p in parameters[1:3])
    assert all({*p} == {"pitch_semitones"} and p["pitch_semitones"] in (-2, -1, 1, 2) for p in parameters[3:])
    assert len({r["content_digest"] for r in made}) == 1


def test_a_copy_can_be_made_again_from_its_row(tmp_path: Path, wav: Wav) -> None:
    samples = noise(0.5)
    wav(samples, 44_100, "in/x/a.wav", "FLOAT")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("stretch-pitch",))
    copy = rows(tmp_path)[1]
    changed = augment.apply(augment.Transform.from_json(copy["transform_params"]), samples, 44_100, "x")
    fitted = np.zeros(22_050, np.float32)
    fitted[: len(changed)] = changed[:22_050]
    expected = log_mel(fitted, SPEC).astype(np.float16)
    np.testing.assert_array_equal(picture(copy), expected)
    assert copy["valid_frames"] == 1 + min(len(changed), 22_050) // 1024


def test_a_failed_copy_is_one_reject_of_a_partial_clip(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = augment.apply

    def fail(
        transform: Transform, samples: np.ndarray, sample_rate: int, clip_uri: str, engine: rubberband.Engine,
        background: Callable[[str], np.ndarray],
    ) -> np.ndarray:  # fmt: skip
        if transform != Transform():
            raise AugmentError(clip_uri, "augment", "the engine stumbled")
        return apply(transform, samples, sample_rate, clip_uri, engine, background)

    monkeypatch.setattr(augment, "apply", fail)
    path = wav(noise(1.0), 44_100, "in/x/a.wav")
    (counts,), totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("ts",))
    assert totals.clips == {"partial": 1}
    assert (counts.rows, counts.rejects, counts.reasons) == (2, 2, {"AugmentError": 2})
    rejects = pq.read_table(tmp_path / "run" / "rejects").to_pylist()
    assert [(r["segment_index"], r["copy_index"], r["stage"], r["message"]) for r in rejects] == [
        (0, 1, "augment", "the engine stumbled"), (1, 1, "augment", "the engine stumbled"),
    ]  # fmt: skip
    assert {r["uri"] for r in rejects} == {path.as_uri()}


def all_sets(folder: Path, wav: Wav) -> dict[str, Any]:
    """Augmentation by every set, with two background recordings."""
    for name in ("rain", "wind"):
        wav(noise(0.4, ord(name[0])), 32_000, f"backgrounds/{name}.wav", "FLOAT")
    found = backgrounds.find(str(folder / "backgrounds"))
    return {"transform_sets": tuple(TRANSFORM_SETS), "backgrounds": found}


def test_copies_by_policy_are_those_of_a_clips_labels(tmp_path: Path, wav: Wav) -> None:
    for i, label in enumerate(("dog", "dog", "cat", "siren")):
        wav(noise(1.0, i), 44_100, f"in/{label}/{i}.wav")
    (tmp_path / "in" / "cat" / "broken.wav").write_bytes(b"RIFF")
    policy = Policy({"dog": {"gain": 1.0, "shift": 0.5}, "cat": {"shift": 1.0}, "*": {}})
    how = {"transform_sets": policy.transform_sets, "copies": 2, "policy": policy}
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 3), Unit(1, 3, 5)], **how)
    made = [(r["labels"][0], r["copy_index"], r["transform_set"]) for r in rows(tmp_path) if r["segment_index"] == 0]
    of_dog = [("dog", 0, "none"), ("dog", 1, "gain"), ("dog", 2, "gain"), ("dog", 3, "shift"), ("dog", 4, "shift")]
    of_cat = [("cat", 0, "none"), ("cat", 3, "shift"), ("cat", 4, "shift")]
    assert sorted(made) == sorted([*of_dog, *of_dog, *of_cat, ("siren", 0, "none")])
    assert totals.clips == {"ok": 4, "rejected": 1}
    # Two segments a clip: two dogs of 4 copies each, a cat of 2, a siren of none.
    assert totals.rows == {"segments": {"written": 8}, "copies": {"written": 20}}


def test_a_segment_that_is_no_sound_loses_the_copies_of_its_own_labels(tmp_path: Path, wav: Wav) -> None:
    samples = noise(1.0)
    samples[30_000] = np.nan
    for label in ("dog", "siren"):
        wav(samples, 44_100, f"in/{label}/a.wav", "FLOAT")
    policy = Policy({"dog": {"gain": 1.0}})
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 2)], transform_sets=("gain",), copies=3, policy=policy)
    assert totals.rows == {"segments": {"written": 2, "rejected": 2}, "copies": {"written": 3, "rejected": 3}}


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n"])
def test_a_machine_without_rubberband_stops_the_run_and_rejects_nothing(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav")
    (tmp_path / "bin").mkdir()
    if script:
        (tmp_path / "bin" / "rubberband").write_text(script)
        (tmp_path / "bin" / "rubberband").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    rubberband.check.cache_clear()
    with pytest.raises(EngineError, match="apt-get install rubberband-cli") as raised:
        run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("gain", "ts"))
    assert socket.gethostname() in str(raised.value)
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert left == []
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("gain",))  # which does without


def test_rubberband_removed_in_mid_unit_stops_the_run_and_rejects_nothing(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        wav(noise(0.5, ord(name)), 44_100, f"in/x/{name}.wav")
    apply = augment.apply

    def remove(transform: Transform, *args: Any) -> np.ndarray:
        changed = apply(transform, *args)
        if transform.needs_engine:
            monkeypatch.setenv("PATH", "")
        return changed

    monkeypatch.setattr(augment, "apply", remove)
    with pytest.raises(EngineError, match=socket.gethostname()):
        run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 2)], transform_sets=("ts",))
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


def test_a_file_of_no_samples_is_rejected_before_any_transform(
    tmp_path: Path, wav: Wav, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav(np.zeros(0), 44_100, "in/x/a.wav")
    wav(np.zeros(0), 44_100, "in/x/b.ogg", "VORBIS")
    wav(np.ones(1), 1_000_000, "in/x/c.wav")  # not one sample at 44.1 kHz
    monkeypatch.setattr(augment, "apply", lambda *args: pytest.fail("a transform of nothing"))
    (counts,), totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 3)], **all_sets(tmp_path, wav))
    assert counts.reasons == {"EmptyClipError": 3}
    assert totals.clips == {"rejected": 3}


def test_odd_sounds_go_through_every_set(tmp_path: Path, wav: Wav) -> None:
    """Of a few samples, silent, clipped beyond full scale, of a high and a low rate."""
    wav(noise(1)[:10], 44_100, "in/x/few.wav", "FLOAT")
    wav(np.zeros(22_050), 44_100, "in/x/silent.wav", "FLOAT")
    wav(1.5 * np.sign(noise(0.5)), 44_100, "in/x/clipped.wav", "FLOAT")
    wav(np.random.default_rng(0).normal(scale=0.1, size=96_000), 192_000, "in/x/192k.wav", "FLOAT")
    wav(noise(0.1), 8_000, "in/x/8k.wav", "FLOAT")
    how = all_sets(tmp_path, wav)
    _, totals = run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 5)], copies=2, **how)
    assert totals.clips == {"ok": 5}
    made = rows(tmp_path)
    segments = {(r["uri"], r["segment_index"]) for r in made}
    assert len(segments) == 6  # 8k.wav is 0.55 s long: its tail is just a tenth of a segment
    assert len(made) == 6 * (1 + 2 * len(TRANSFORM_SETS))
    for row in made:
        assert len(row["log_mel"]) == 2 * 128 * SPEC.n_frames(22_050)
        assert np.isfinite(picture(row).astype(np.float32)).all()
        if "silent" in row["uri"] and row["transform_set"] != "bg":
            assert (picture(row) == -100).all()  # 10·log10(1e-10), the floor
    lengths = {(r["transform_set"], r["valid_frames"]) for r in made if "192k" in r["uri"]}
    assert ("none", SPEC.n_frames(22_050)) in lengths  # half a second, at the front end's rate


def test_output_does_not_depend_on_order_resumption_or_the_number_of_copies(tmp_path: Path, wav: Wav) -> None:
    for i in range(3):
        wav(noise(0.2 + 0.2 * i, i), 44_100, f"in/x/{i}.wav")
    clips, how = list_clips(tmp_path), all_sets(tmp_path, wav)
    work = [Unit(0, 0, 1), Unit(1, 1, 2), Unit(2, 2, 3)]
    run(tmp_path, clips, work, copies=2, **how)
    together = rows(tmp_path)
    for made_again in ([2], [0, 1]):  # others in each worker that goes on, in another order
        for index in made_again:
            (tmp_path / "run" / "data" / work[index].name).unlink()
        uri = storage.to_uri(str(tmp_path / "m.parquet"))
        plan = ExtractPlan(
            uri, storage.to_uri(str(tmp_path / "run")), SPEC, 0.5, "digest", Augmentation(copies=2, **how)
        )
        with contextlib.closing(UnitExtractor(plan)) as extractor:
            for index in reversed(made_again):
                extractor(work[index])
        assert rows(tmp_path) == together
    run(tmp_path / "fewer", clips, work, copies=1, **how)
    kept = [r for r in together if not r["copy_index"] or r["copy_index"] % 2 == 1]  # of each set the first
    fewer = rows(tmp_path / "fewer")
    assert [{**r, "copy_index": 0} for r in fewer] == [{**r, "copy_index": 0} for r in kept]


def test_four_copies_of_a_set_are_its_four_choices(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav")
    run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("ts", "drc"), copies=4)
    parameters = [json.loads(r["transform_params"]) for r in rows(tmp_path)]
    assert sorted(round(1 / p["stretch"], 9) for p in parameters[1:5]) == [0.81, 0.93, 1.07, 1.23]
    assert len({p["compression"] for p in parameters[5:]}) == 4


def test_another_seed_makes_other_copies_of_the_same_originals(tmp_path: Path, wav: Wav) -> None:
    wav(noise(0.5), 44_100, "in/x/a.wav")
    made = []
    for seed in (0, 1):
        run(tmp_path, list_clips(tmp_path), [Unit(0, 0, 1)], transform_sets=("stretch-pitch",), seed=seed)
        made.append(rows(tmp_path))
    assert made[0][0] == made[1][0]
    assert made[0][1]["transform_params"] != made[1][1]["transform_params"]
