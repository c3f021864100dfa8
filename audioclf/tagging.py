"""A unit of recordings → the tags of their windows: what one tagging task does. Plain torch, no Ray."""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import checkpoint, inference, manifest, schema, shards, storage
from audioclf.audio import decode, segment
from audioclf.audio.frontend import log_mel
from audioclf.errors import ClipError
from audioclf.extraction import reject_row
from audioclf.units import Unit

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

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Fetch, decode, cut into windows, classify and commit one unit; gives its counts."""
        done = UnitTags()
        for recording in self._manifest.rows(unit.row_start, unit.row_stop):
            try:
                self._tag(recording, done)
            except ClipError as error:  # the one place where an error becomes a reject
                done.rejects.append(reject_row(recording, error))
                done.recordings.append(_recording_row(recording, "rejected"))
        self._commit(unit, done)
        return done.counts()

    def _tag(self, recording: dict[str, Any], done: UnitTags) -> None:
        plan, front_end = self._plan, self._checkpoint.front_end
        data = storage.read_bytes(recording["uri"], recording["etag"])
        done.bytes += len(data)
        audio = decode.decode(
            io.BytesIO(data), storage.display(recording["uri"]), recording["start_s"], recording["end_s"]
        )
        done.audio_s += audio.duration_s
        samples = decode.resample(audio.samples, audio.sample_rate, front_end.sample_rate)
        length = segment.segment_samples(plan.window_s, front_end.sample_rate)
        hop = segment.segment_samples(plan.hop_s, front_end.sample_rate)
        starts = segment.segment_starts(len(samples), length, hop, min_tail=0.0)
        probabilities = np.concatenate(
            [
                self._classify([segment.cut(samples, start, length) for start in starts[i : i + plan.batch_size]])
                for i in range(0, len(starts), plan.batch_size)
            ]
        )
        done.windows += len(starts)
        for start, window in zip(starts, probabilities, strict=True):
            start_s = start / front_end.sample_rate
            end_s = min(start_s + plan.window_s, audio.duration_s)
            offset_s = recording["start_s"] or 0.0
            done.tags += self._tag_rows(recording, offset_s + start_s, offset_s + end_s, window)
        mean = probabilities.mean(axis=0)
        names = self._checkpoint.vocabulary.names
        best = int(mean.argmax())
        done.recordings.append(
            {
                **_recording_row(recording, "ok"),
                "duration_s": audio.duration_s,
                "windows": len(starts),
                "top_tag": names[best],
                "top_probability": float(mean[best]),
            }
        )

    def _classify(self, windows: list[tuple[np.ndarray, int]]) -> np.ndarray:
        """[W, C] probabilities of padded windows with their numbers of real samples."""
        front_end = self._checkpoint.front_end
        # Through float16, like the shards the network was trained on.
        pictures = np.stack([log_mel(samples, front_end).astype(np.float16) for samples, _ in windows])
        valid = np.array([front_end.n_frames(n_valid) for _, n_valid in windows])
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
