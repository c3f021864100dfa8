"""A unit of recordings → the tags of their windows: what one tagging task does. Plain torch, no Ray."""

import contextlib
import io
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import checkpoint, inference, isolation, manifest, schema, shards, storage
from audioclf.audio import segment
from audioclf.audio.frontend import FrontEnd, log_mel
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid, Segment
from audioclf.errors import ClipError, CrashedClipError, DecodeError
from audioclf.extraction import reject_row
from audioclf.fetch import Fetcher, Opener
from audioclf.units import Unit

AHEAD_BYTES = 64 << 20
"""Of recordings fetched before their turn."""

RECORDINGS = "recordings"
"""Folder of a run directory: one row a recording, what the ledger is made of."""


@dataclass(frozen=True)
class TagPlan:
    """What every task of one tagging run needs to know; small, since it travels to each worker."""

    manifest_uri: str
    output_uri: str
    checkpoint_uri: str
    window_s: float
    hop_s: float
    top_k: int
    threshold: float
    batch_size: int

    def grid(self, front_end: FrontEnd) -> Grid:
        """Where windows begin; the last part of a recording is a window too, however short."""
        rate = front_end.sample_rate
        length, hop = (segment.segment_samples(seconds, rate) for seconds in (self.window_s, self.hop_s))
        return Grid(rate, length, hop, min_tail=0.0)


@dataclass
class UnitTags:
    """The rows of a unit's three files."""

    tags: list[dict[str, Any]] = field(default_factory=list)
    recordings: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    audio_s: float = 0.0
    bytes: int = 0
    windows: int = 0

    def counts(self) -> dict[str, Any]:
        return {
            "clips": len(self.recordings),
            "clips_rejected": len(self.rejects),
            "reasons": dict(Counter(row["error"] for row in self.rejects)),
            "tags": len(self.tags),
            "windows": self.windows,
            "audio_s": self.audio_s,
            "bytes": self.bytes,
        }


class UnitTagger:
    """Tags the recordings of one unit after another with one network."""

    def __init__(self, plan: TagPlan):
        self._plan = plan
        self._manifest = manifest.SliceReader(plan.manifest_uri)
        self._checkpoint = checkpoint.load(plan.checkpoint_uri)
        self._fetcher = Fetcher(AHEAD_BYTES)

    def __call__(self, unit: Unit, careful: bool = False) -> dict[str, Any]:
        """Fetch, decode, cut into windows, classify and commit one unit; gives its counts.

        Args:
            unit: what to do.
            careful: decode each recording in a process of its own first, since one may kill the process.
        """
        done = UnitTags()
        with contextlib.ExitStack() as stack:
            trials = stack.enter_context(isolation.Trials(_decode)) if careful else None
            self._tag_all(unit, trials, done)
        self._commit(unit, done)
        return done.counts()

    def _tag_all(self, unit: Unit, trials: isolation.Trials | None, done: UnitTags) -> None:
        for recording, opener in self._fetcher(self._manifest.rows(unit.row_start, unit.row_stop)):
            tagged = len(done.tags)
            try:
                if trials and not trials.survives(recording, self._plan.grid(self._checkpoint.front_end)):
                    raise CrashedClipError(storage.display(recording["uri"]), "decode", isolation.MESSAGE)
                self._tag(recording, opener, done)
            except ClipError as error:  # the one place where an error becomes a reject
                del done.tags[tagged:]
                done.rejects.append(reject_row(recording, error))
                done.recordings.append(_recording_row(recording, "rejected"))

    def close(self) -> None:
        """Close the manifest and end the fetching threads."""
        self._manifest.close()
        self._fetcher.close()

    def _tag(self, recording: dict[str, Any], opener: Opener, done: UnitTags) -> None:
        plan, vocabulary = self._plan, self._checkpoint.vocabulary
        offset_s = recording["start_s"] or 0.0
        n_windows, duration_s = 0, 0.0
        total = np.zeros(len(vocabulary))
        with Recording(opener(), storage.display(recording["uri"]), recording["start_s"], recording["end_s"]) as sound:
            windows = segment.segments(sound, plan.grid(self._checkpoint.front_end))
            while batch := list(islice(windows, plan.batch_size)):
                if any(not window.finite for window in batch):
                    raise DecodeError(sound.name, "decode", "samples that are NaN, infinite or beyond all measure")
                probabilities = self._classify(batch)
                duration_s += sum(window.source_s for window in batch)
                end_s = sound.n_frames / sound.sample_rate if sound.n_frames else np.inf
                for window, of_window in zip(batch, probabilities, strict=True):
                    stop_s = min(window.start_s + plan.window_s, end_s)
                    done.tags += self._tag_rows(recording, offset_s + window.start_s, offset_s + stop_s, of_window)
                n_windows += len(batch)
                total += probabilities.sum(axis=0)
        done.windows += n_windows
        done.audio_s += duration_s
        done.bytes += recording["size_bytes"]
        mean = total / n_windows
        best = int(mean.argmax())
        done.recordings.append(
            {
                **_recording_row(recording, "ok"),
                "duration_s": duration_s,
                "windows": n_windows,
                "top_tag": vocabulary.names[best],
                "top_probability": float(mean[best]),
            }
        )

    def _classify(self, windows: list[Segment]) -> np.ndarray:
        """[W, C] probabilities."""
        front_end = self._checkpoint.front_end
        length = self._plan.grid(front_end).length
        # Through float16, like the shards the network was trained on.
        pictures = np.stack([log_mel(segment.cut(w.samples, length), front_end).astype(np.float16) for w in windows])
        valid = np.array([front_end.n_frames(len(window.samples)) for window in windows])
        multi_label = self._checkpoint.vocabulary.multi_label
        return inference.predict(self._checkpoint.network, pictures, valid, multi_label, self._plan.batch_size)

    def _tag_rows(
        self, recording: dict[str, Any], start_s: float, end_s: float, probabilities: np.ndarray
    ) -> list[dict[str, Any]]:
        vocabulary = self._checkpoint.vocabulary
        likeliest = np.argsort(-probabilities, kind="stable")[: self._plan.top_k]
        return [
            {
                "clip_id": recording["clip_id"],
                "uri": recording["uri"],
                "recorded_at": recording["recorded_at"],
                "start_s": start_s,
                "end_s": end_s,
                "tag": vocabulary.names[i],
                "mid": vocabulary.mids[i] if vocabulary.mids else None,
                "probability": float(probabilities[i]),
                "rank": rank,
            }
            for rank, i in enumerate(likeliest, start=1)
            if probabilities[i] >= self._plan.threshold
        ]

    def _commit(self, unit: Unit, done: UnitTags) -> None:
        """Rejects and recordings first: the tags' file commits the unit."""
        output = self._plan.output_uri
        if done.rejects:
            storage.write_bytes(storage.join(output, shards.REJECTS, unit.name), shards.encode_rejects(done.rejects))
        recordings = storage.join(output, RECORDINGS, unit.name)
        storage.write_bytes(recordings, encode(done.recordings, schema.RECORDING))
        storage.write_bytes(storage.join(output, shards.DATA, unit.name), encode(done.tags, schema.TAG))


def _decode(recording: dict[str, Any], grid: Grid) -> None:
    """Decode a recording and keep nothing: to see whether it kills its process."""
    fetcher = Fetcher(AHEAD_BYTES)
    try:
        for found, opener in fetcher([recording]):
            with Recording(opener(), storage.display(found["uri"]), found["start_s"], found["end_s"]) as sound:
                for _ in segment.segments(sound, grid):
                    pass
    except ClipError:
        pass  # its turn comes when the unit is made
    finally:
        fetcher.close()


def encode(rows: list[dict[str, Any]], target: pa.Schema) -> bytes:
    """A Parquet file of rows."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=target), buffer, compression="zstd")
    return buffer.getvalue()


def _recording_row(recording: dict[str, Any], status: str) -> dict[str, Any]:
    """A row of the recordings; the fields of a tagged one are filled in by the caller."""
    return {
        **{name: recording[name] for name in ("clip_id", "uri", "size_bytes", "etag")},
        "status": status,
        "duration_s": None,
        "windows": 0,
        "top_tag": None,
        "top_probability": None,
    }
