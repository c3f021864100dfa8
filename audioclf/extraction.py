"""A unit of clips → a shard of pictures, or waveforms, and its rejects: what one task does. Plain numpy, no Ray."""

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from audioclf import fetch, isolation, manifest, parquet_files, rundir, schema, storage, unit_segments
from audioclf.audio import augment, rubberband, segment
from audioclf.audio.features import features
from audioclf.audio.pcm import AnyFrontEnd, Pcm
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid, Segment
from audioclf.augmentation import Augmentation
from audioclf.errors import ClipError, CrashedClipError
from audioclf.fetch import Fetcher, Opener
from audioclf.shard_writer import ShardWriter
from audioclf.unit_segments import reject_row
from audioclf.units import Unit

MIN_TAIL = 0.1
"""A last part shorter than this share of a segment is left out: too little sound to learn from."""


@dataclass(frozen=True)
class ExtractPlan:
    """What every task of one extraction needs to know; small, since it travels to each worker."""

    manifest_uri: str
    output_uri: str
    front_end: AnyFrontEnd
    segment_s: float
    config_digest: str
    augmentation: Augmentation
    buffer_bytes: int = 128 << 20
    """What a task may hold of fetched files, and again of pictures not yet written."""
    manifest_etag: str | None = None
    """Of the manifest that units were planned from."""
    readable_uri: str | None = None
    """Of a clip that can be read, by which the trouble of another is judged."""

    @property
    def grid(self) -> Grid:
        length = segment.segment_samples(self.segment_s, self.front_end.sample_rate)
        return Grid(self.front_end.sample_rate, length, length, MIN_TAIL)


@dataclass
class UnitCounts:
    """What became of a unit; stored in its data file, so that totals come from what is committed."""

    clips: int = 0
    """Clips that begin in the unit."""
    clips_rejected: int = 0
    """Clips that lost something here."""
    segments: int = 0
    """Of clips that could be read, written or not."""
    rows: int = 0
    rejects: int = 0
    audio_s: float = 0.0
    bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    augment_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds that the copies of each transform set took; not stored, since a file depends on its input alone."""
    augmented: Counter[str] = field(default_factory=Counter)
    """Copies made of each transform set; not stored either."""

    def to_dict(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, dict) else value for name, value in vars(self).items()}

    def to_store(self) -> dict[str, Any]:
        """What is stored in the data file."""
        return {name: value for name, value in self.to_dict().items() if name not in ("augment_s", "augmented")}


class UnitExtractor:
    """Makes the shard of one unit after another; keeps the manifest's footer open between them."""

    def __init__(self, plan: ExtractPlan):
        self._plan = plan
        self._manifest = manifest.SliceReader(plan.manifest_uri, plan.manifest_etag)
        self._fetcher = Fetcher(plan.buffer_bytes)
        self._background = plan.augmentation.background_loader(plan.front_end.sample_rate)

    def __call__(self, unit: Unit, careful: bool = False) -> UnitCounts:
        """Fetch, decode, transform, encode and commit one unit.

        Args:
            unit: what to do.
            careful: try each clip in a process of its own first, since one of them may kill the process.
        """
        plan, counts = self._plan, UnitCounts()
        if plan.augmentation.needs_engine:
            rubberband.check()  # not in __init__: Ray would start a worker that failed there anew
        rejects: list[dict[str, Any]] = []
        clips = self._manifest.rows(unit.row_start, unit.row_stop)
        with (
            contextlib.ExitStack() as stack,
            storage.create(storage.join(plan.output_uri, rundir.DATA, unit.name)) as file,
            ShardWriter(file, plan.front_end, plan.grid.length, plan.config_digest, plan.buffer_bytes) as writer,
        ):
            trials = stack.enter_context(isolation.Trials(try_clip)) if careful else None
            for clip, opener in self._fetcher(clips, in_part=unit.segments_total > 0):
                counts.clips += unit.first_segment == 0
                before = len(rejects)
                try:
                    with fetch.own_trouble(clip["uri"], plan.readable_uri):
                        if trials and not trials.survives(clip, plan, unit):
                            raise CrashedClipError(storage.display(clip["uri"]), "decode", isolation.MESSAGE)
                        extract_clip(clip, opener, plan, unit, self._background, writer, rejects, counts)
                except ClipError as error:  # the one place where an error of a whole clip becomes a reject
                    rejects.append(reject_row(clip, error))
                counts.clips_rejected += len(rejects) > before
            counts.rows, counts.rejects = writer.rows, len(rejects)
            counts.reasons.update(row["error"] for row in rejects)
            writer.finish(counts.to_store())
            if rejects:  # before the data file appears: its presence is the commit
                rejects_uri = storage.join(plan.output_uri, rundir.REJECTS, unit.name)
                storage.write_bytes(rejects_uri, parquet_files.encode(rejects, schema.REJECT))
        return counts

    def close(self) -> None:
        """Close the manifest and end the fetching threads."""
        self._manifest.close()
        self._fetcher.close()


def extract_clip(
    clip: dict[str, Any],
    opener: Opener,
    plan: ExtractPlan,
    unit: Unit,
    background: Callable[[str], np.ndarray],
    writer: ShardWriter,
    rejects: list[dict[str, Any]],
    counts: UnitCounts,
) -> None:
    """Write the rows of one clip: of each segment that lies in the unit, the original and its augmented copies.

    Raises:
        ClipError: the clip as a whole can't be had.
    """
    with Recording(opener(), storage.display(clip["uri"]), clip["start_s"], clip["end_s"]) as recording:
        done = 0
        for part in unit_segments.of(recording, unit, plan.grid, clip, rejects):
            if part:
                _write_copies(part, clip, plan, background, writer, rejects, counts)
                counts.audio_s += part.source_s
            done += 1
        counts.segments += done
        counts.bytes += unit_segments.bytes_of(clip, unit, done)


def _write_copies(
    part: Segment,
    clip: dict[str, Any],
    plan: ExtractPlan,
    background: Callable[[str], np.ndarray],
    writer: ShardWriter,
    rejects: list[dict[str, Any]],
    counts: UnitCounts,
) -> None:
    front_end, length = plan.front_end, plan.grid.length
    for copy in plan.augmentation.copies_of(clip["labels"]):
        began = time.perf_counter()
        transform = plan.augmentation.draw(copy, clip["clip_id"], part.index)
        try:
            changed = augment.apply(
                transform, part.samples, front_end.sample_rate, storage.display(clip["uri"]),
                plan.augmentation.engine, background,
            )  # fmt: skip
        except ClipError as error:
            rejects.append(reject_row(clip, error, part.index, copy.index))
            continue
        if copy.index:
            counts.augmented[copy.transform_set] += 1
            counts.augment_s[copy.transform_set] += time.perf_counter() - began
        writer.add(
            {
                "clip_id": clip["clip_id"],
                "uri": clip["uri"],
                "segment_index": part.index,
                "start_s": (clip["start_s"] or 0.0) + part.start_s,
                "copy_index": copy.index,
                "transform_set": copy.transform_set,
                "transform_params": transform.to_json(),
                "valid_frames": front_end.n_frames(min(len(changed), length)),
                "labels": clip["labels"],
                "fold": clip["fold"],
                "source_id": clip["source_id"],
                "flags": _flags(part, changed[:length], front_end),
                "content_digest": part.content_digest,
            },
            features(segment.cut(changed, length), front_end),
        )


def _flags(part: Segment, samples: np.ndarray, front_end: AnyFrontEnd) -> tuple[str, ...]:
    """The segment's flags, and `clipped` where int16 cuts off what lies beyond full scale in this copy of it."""
    if not isinstance(front_end, Pcm) or "clipped" in part.flags or len(samples) < segment.CLIPPED_RUN:
        return part.flags
    beyond = np.lib.stride_tricks.sliding_window_view(np.abs(samples) > 1, segment.CLIPPED_RUN)
    return (*part.flags, "clipped") if beyond.all(axis=1).any() else part.flags


def try_clip(clip: dict[str, Any], plan: ExtractPlan, unit: Unit) -> None:
    """All that is done with a clip, and nothing kept: to see whether it kills its process."""
    fetcher = Fetcher(plan.buffer_bytes)
    background = plan.augmentation.background_loader(plan.front_end.sample_rate)
    writer = ShardWriter(None, plan.front_end, plan.grid.length, plan.config_digest, plan.buffer_bytes)
    try:
        for found, opener in fetcher([clip]):
            extract_clip(found, opener, plan, unit, background, writer, [], UnitCounts())
    except ClipError:
        pass  # its turn comes when the unit is made
    finally:
        fetcher.close()
