"""A unit of clips → a shard of log-mel pictures and its rejects: what one task does. Plain numpy, no Ray."""

import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audioclf import manifest, shards, storage
from audioclf.audio import augment, decode, segment
from audioclf.audio.frontend import FrontEnd, log_mel
from audioclf.errors import ClipError
from audioclf.units import Unit

MIN_TAIL = 0.1
"""A last part shorter than this share of a segment is left out: too little sound to learn from."""


@dataclass(frozen=True)
class ExtractPlan:
    """What every task of one extraction needs to know; small, since it travels to each worker."""

    manifest_uri: str
    output_uri: str
    front_end: FrontEnd
    segment_s: float
    transform_sets: tuple[str, ...]
    copies: int
    """Augmented copies of each segment and transform set."""
    seed: int
    config_digest: str

    @property
    def segment_samples(self) -> int:
        return segment.segment_samples(self.segment_s, self.front_end.sample_rate)

    @property
    def copy_sets(self) -> list[str]:
        """The transform set of each copy, copy 0 (the original) first."""
        return [augment.ORIGINAL, *(name for name in self.transform_sets for _ in range(self.copies))]


@dataclass
class UnitCounts:
    """What became of a unit; stored in its data file, so that totals come from what is committed."""

    clips: int = 0
    clips_ok: int = 0
    clips_partial: int = 0
    clips_rejected: int = 0
    rows: int = 0
    rejects: int = 0
    audio_s: float = 0.0
    bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "reasons": dict(self.reasons), "flags": dict(self.flags)}


@dataclass
class ClipRows:
    """The rows of one clip."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)


class UnitExtractor:
    """Makes the shard of one unit after another; keeps the manifest's footer open between them."""

    def __init__(self, plan: ExtractPlan):
        self._plan = plan
        self._manifest = manifest.SliceReader(plan.manifest_uri)

    def __call__(self, unit: Unit) -> UnitCounts:
        """Fetch, decode, transform, encode and commit one unit."""
        plan, counts = self._plan, UnitCounts()
        done = ClipRows()
        for clip in self._manifest.rows(unit.row_start, unit.row_stop):
            counts.clips += 1
            written, rejected = len(done.rows), len(done.rejects)
            try:
                extract_clip(clip, plan, done, counts)
            except ClipError as error:  # the one place where an error becomes a reject
                done.rejects.append(reject_row(clip, error))
            if len(done.rejects) == rejected:
                counts.clips_ok += 1
            elif len(done.rows) > written:
                counts.clips_partial += 1
            else:
                counts.clips_rejected += 1
        counts.rows, counts.rejects = len(done.rows), len(done.rejects)
        counts.reasons.update(row["error"] for row in done.rejects)
        self._commit(unit, done, counts)
        return counts

    def close(self) -> None:
        """Close the manifest."""
        self._manifest.close()

    def _commit(self, unit: Unit, done: ClipRows, counts: UnitCounts) -> None:
        """Rejects first: the data file's presence is the commit."""
        plan = self._plan
        n_frames = plan.front_end.n_frames(plan.segment_samples)
        if done.rejects:
            rejects_uri = storage.join(plan.output_uri, shards.REJECTS, unit.name)
            storage.write_bytes(rejects_uri, shards.encode_rejects(done.rejects))
        data = shards.encode(done.rows, done.pictures, plan.front_end, n_frames, plan.config_digest, counts.to_dict())
        storage.write_bytes(storage.join(plan.output_uri, shards.DATA, unit.name), data)


def extract_clip(clip: dict[str, Any], plan: ExtractPlan, done: ClipRows, counts: UnitCounts) -> None:
    """Append the rows of one clip: each of its segments, the original and its augmented copies.

    Raises:
        ClipError: the clip as a whole can't be had.
    """
    data = storage.read_bytes(clip["uri"], clip["etag"])
    counts.bytes += len(data)
    name = storage.display(clip["uri"])
    audio = decode.decode(io.BytesIO(data), name, clip["start_s"], clip["end_s"])
    counts.audio_s += audio.duration_s
    counts.flags.update(audio.flags)
    rate, length = plan.front_end.sample_rate, plan.segment_samples
    samples = decode.resample(audio.samples, audio.sample_rate, rate)
    for segment_index, start in enumerate(segment.segment_starts(len(samples), length, length, MIN_TAIL)):
        part = samples[start : start + length]
        for copy_index, transform_set in enumerate(plan.copy_sets):
            try:
                transform, changed = _copy(part, plan, clip, segment_index, copy_index, transform_set)
            except ClipError as error:
                done.rejects.append(reject_row(clip, error, segment_index, copy_index))
                continue
            padded, n_valid = segment.cut(changed, 0, length)
            done.pictures.append(log_mel(padded, plan.front_end))
            done.rows.append(
                {
                    "clip_id": clip["clip_id"],
                    "uri": clip["uri"],
                    "segment_index": segment_index,
                    "start_s": (clip["start_s"] or 0.0) + start / rate,
                    "copy_index": copy_index,
                    "transform_set": transform_set,
                    "transform_params": transform,
                    "valid_frames": min(plan.front_end.n_frames(n_valid), plan.front_end.n_frames(length)),
                    "labels": clip["labels"],
                    "fold": clip["fold"],
                    "source_id": clip["source_id"],
                    "flags": audio.flags,
                    "content_digest": audio.content_digest,
                }
            )


def _copy(
    part: np.ndarray,
    plan: ExtractPlan,
    clip: dict[str, Any],
    segment_index: int,
    copy_index: int,
    transform_set: str,
) -> tuple[str, np.ndarray]:
    """The parameters of a copy as JSON, and its samples: as long as the transform makes them."""
    if transform_set == augment.ORIGINAL:
        return "{}", part
    rng = augment.rng_of(plan.seed, clip["clip_id"], segment_index, copy_index)
    transform = augment.TRANSFORM_SETS[transform_set].draw(rng)
    changed = augment.apply(transform, part, plan.front_end.sample_rate, storage.display(clip["uri"]))
    return transform.to_json(), changed


def reject_row(
    clip: dict[str, Any], error: ClipError, segment_index: int | None = None, copy_index: int | None = None
) -> dict[str, Any]:
    """A row of the rejects."""
    return {
        "clip_id": clip["clip_id"],
        "uri": clip["uri"],
        "segment_index": segment_index,
        "copy_index": copy_index,
        "stage": error.stage,
        "error": type(error).__name__,
        "message": error.message,
    }
