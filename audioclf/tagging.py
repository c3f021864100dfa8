"""Log-mel windows → their tags, committed: the second half of tagging. No Ray; torch only if the network needs it."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from audioclf import errors, inference, parquet_files, rundir, schema, storage
from audioclf.inference import Classifier
from audioclf.labels import Vocabulary
from audioclf.units import Unit
from audioclf.windows import Part, Window, Windows

PARTS, EMBEDDINGS = "parts", "embeddings"
"""Folders of a run directory, beside rundir.DATA and rundir.REJECTS."""

AT_ONCE = 16
"""Windows that are classified one batch after the other, so that the network stays in the cache: 4 % faster."""


@dataclass(frozen=True)
class TagPlan:
    """What every task of one tagging run needs to know; small, since it travels to each worker.

    Attributes:
        windows: how recordings are cut.
        output_uri: run directory.
        checkpoint_uri: the network.
        onnx_uri: the same as a file for ONNX Runtime; None: PyTorch computes.
        vocabulary: its outputs.
        top_k: tags a window gets at most.
        thresholds: of each class, the lowest probability of a tag that is written.
        batch_size: windows, or patches of them, in a forward pass.
        embeddings: whether they are written.
        device: that PyTorch computes on.
    """

    windows: Windows
    output_uri: str
    checkpoint_uri: str
    onnx_uri: str | None
    vocabulary: Vocabulary
    top_k: int
    thresholds: tuple[float, ...]
    batch_size: int
    embeddings: bool = False
    device: str = "cpu"


@dataclass
class UnitTags:
    """The rows of a unit's files."""

    tags: list[dict[str, Any]] = field(default_factory=list)
    embeddings: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def counts(self, unit: Unit) -> dict[str, Any]:
        """For the progress."""
        return {
            "clips": len(self.parts) if unit.first_segment == 0 else 0,
            "clips_rejected": sum(row["status"] != "ok" for row in self.parts),
            "reasons": dict(Counter(row["error"] for row in self.rejects)),
            "tags": len(self.tags),
            "windows": sum(row["windows"] for row in self.parts),
            "audio_s": sum(row["duration_s"] for row in self.parts),
            "bytes": self.bytes,
            "seconds": dict(self.seconds),
        }


class Tagger:
    """Classifies and commits the windows of one unit after another with one network."""

    def __init__(self, plan: TagPlan):
        self._plan = plan
        self._classifier = classifier_of(plan)
        self._thresholds = np.array(plan.thresholds)

    def __call__(self, unit: Unit, heard: Iterable[Window | Part]) -> dict[str, Any]:
        """Classify windows in batches, whatever recordings they are of, and commit the unit; gives its counts."""
        done = UnitTags()
        total = np.zeros(len(self._plan.vocabulary))
        waiting: list[Window | Part] = []
        n_windows = 0
        for item in heard:
            waiting.append(item)
            n_windows += isinstance(item, Window)
            if n_windows == max(self._plan.batch_size, AT_ONCE):
                self._take(waiting, unit, total, done)
                waiting, n_windows = [], 0
        self._take(waiting, unit, total, done)
        began = time.perf_counter()
        self._commit(unit, done)
        done.seconds["output"] += time.perf_counter() - began
        return done.counts(unit)

    def _take(self, waiting: list[Window | Part], unit: Unit, total: np.ndarray, done: UnitTags) -> None:
        """Turn windows and ends of recordings, in their order, into rows; `total` is of the recording at hand."""
        windows = [item for item in waiting if isinstance(item, Window)]
        began = time.perf_counter()
        predicted = iter(zip(*self._predict(windows), strict=True)) if windows else iter(())
        computed = time.perf_counter()
        done.seconds["network"] += computed - began
        for item in waiting:
            if isinstance(item, Window):
                probabilities, embedding = next(predicted)
                total += probabilities
                done.tags += self._tag_rows(item, probabilities)
                if self._plan.embeddings:
                    done.embeddings.append({**_place(item), "embedding": embedding.astype(np.float16)})
            else:
                done.parts.append(self._part_row(item, unit, total))
                done.rejects += item.rejects
                done.bytes += item.bytes
                for name, seconds in item.seconds.items():
                    done.seconds[name] += seconds
                total[:] = 0
        done.seconds["output"] += time.perf_counter() - computed

    def _predict(self, windows: list[Window]) -> inference.Predicted:
        pictures = np.stack([window.log_mel for window in windows])
        valid = np.array([window.valid_frames for window in windows])
        multi_label = self._plan.vocabulary.multi_label
        return inference.predict(self._classifier, pictures, valid, multi_label, self._plan.batch_size)

    def _tag_rows(self, window: Window, probabilities: np.ndarray) -> list[dict[str, Any]]:
        names, mids = self._plan.vocabulary.names, self._plan.vocabulary.mids
        likeliest = np.argsort(-probabilities, kind="stable")[: self._plan.top_k]
        return [
            {
                **_place(window),
                "recorded_at": window.recording["recorded_at"],
                "tag": names[i],
                "mid": mids[i] if mids else None,
                "probability": float(probabilities[i]),
                "rank": rank,
            }
            for rank, i in enumerate(likeliest, start=1)
            if probabilities[i] >= self._thresholds[i]
        ]

    def _part_row(self, part: Part, unit: Unit, total: np.ndarray) -> dict[str, Any]:
        best = int(total.argmax())
        status = "ok" if not part.rejects else "partial" if part.windows else "rejected"
        return {
            **{name: part.recording[name] for name in ("clip_id", "uri", "size_bytes", "etag", "recorded_at")},
            "status": status,
            "retry": any(errors.may_pass(row["error"]) for row in part.rejects),
            "duration_s": part.duration_s,
            "windows": part.windows,
            "flags": part.flags,
            "top_tag": self._plan.vocabulary.names[best] if part.windows else None,
            "top_probability": float(total[best]) / part.windows if part.windows else None,
            "segments": unit.stop_segment - unit.first_segment,
            "segments_total": unit.segments_total,
            "probability_sum": total.copy() if unit.segments_total else None,
        }

    def _commit(self, unit: Unit, done: UnitTags) -> None:
        """Everything else first: the tags' file commits the unit."""
        if done.rejects:
            self._write(rundir.REJECTS, unit, done.rejects, schema.REJECT)
        if self._plan.embeddings:
            self._write(EMBEDDINGS, unit, done.embeddings, schema.EMBEDDING)
        self._write(PARTS, unit, done.parts, schema.PART)
        self._write(rundir.DATA, unit, done.tags, schema.TAG)

    def _write(self, folder: str, unit: Unit, rows: list[dict[str, Any]], target: pa.Schema) -> None:
        storage.write_bytes(storage.join(self._plan.output_uri, folder, unit.name), parquet_files.encode(rows, target))


def classifier_of(plan: TagPlan) -> Classifier:
    """What computes the network: a worker with ONNX Runtime never imports torch, which costs it seconds and memory."""
    if plan.onnx_uri:
        from audioclf.onnx_classifier import OnnxClassifier

        return OnnxClassifier(storage.read_bytes(plan.onnx_uri))
    from audioclf import checkpoint
    from audioclf.torch_classifier import TorchClassifier

    return TorchClassifier(checkpoint.load(plan.checkpoint_uri).network.to(plan.device))


def _place(window: Window) -> dict[str, Any]:
    recording = window.recording
    return {
        "clip_id": recording["clip_id"],
        "uri": recording["uri"],
        "start_s": window.start_s,
        "end_s": window.end_s,
    }
