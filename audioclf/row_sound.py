"""A row of shards → the sound that its picture was made from. No Ray."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audioclf import backgrounds, manifest, storage
from audioclf.audio import augment, pcm, segment
from audioclf.audio.augment import Transform
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Segment
from audioclf.augmentation import Augmentation
from audioclf.errors import ConfigError
from audioclf.extraction import ExtractPlan
from audioclf.rundir import RunDirectory

CLIP_COLUMNS = ["clip_id", "uri", "etag", "start_s", "end_s"]
ROW_COLUMNS = ["clip_id", "segment_index", "copy_index", "transform_set", "transform_params", "content_digest"]
"""Of a shard: what `RowSounds` has to know of a row."""


class RowSounds:
    """Makes the sounds of an extraction's rows again.

    Args:
        directory: run directory of jobs/extract.py.

    Attributes:
        front_end: of the extraction, whose rate the sounds have.

    Raises:
        ConfigError: not such a directory.
    """

    def __init__(self, directory: RunDirectory):
        made = directory.config()
        if made is None or made["job"] != "extract":
            raise ConfigError(f"{directory}: not a run directory of jobs/extract.py")
        self._made = made
        self._manifest_uri = storage.to_uri(made["flags"]["manifest"])
        self.front_end = pcm.from_dict(made["binding"]["front_end"])
        plan = ExtractPlan("", "", self.front_end, made["binding"]["segment_s"], "", Augmentation())
        self._grid = plan.grid
        self._clips: dict[str, dict[str, Any]] = {}

    def look_up(self, clip_ids: Sequence[str]) -> None:
        """Find clips in the manifest, all at once: it may be long, and is read for each `samples` of another clip."""
        table = manifest.read(self._manifest_uri, CLIP_COLUMNS).table
        found = table.filter(pc.field("clip_id").isin(pa.array(clip_ids, pa.string()))).to_pylist()
        self._clips |= {row["clip_id"]: row for row in found}

    def samples(self, row: dict[str, Any]) -> np.ndarray:
        """[n] float32 at the front end's rate; a stretched copy is whole, however much of it its picture shows.

        Args:
            row: ROW_COLUMNS of a shard.

        Raises:
            ConfigError: the manifest or the background recording is another, or the file holds another sound.
            ClipError: the file can't be read any more.
        """
        clip = self._clip(row["clip_id"])
        part = self._segment(clip, row["segment_index"])
        name, rate = storage.display(clip["uri"]), self.front_end.sample_rate
        if part.content_digest != row["content_digest"]:
            raise ConfigError(f"{name}: holds another sound than when its picture was made")
        augmentation = self._augmentation(row)
        transform = Transform.from_json(row["transform_params"])
        load = augmentation.background_loader(rate)
        return augment.apply(transform, part.samples, rate, name, augmentation.engine, load)

    def _clip(self, clip_id: str) -> dict[str, Any]:
        """The clip's row of the manifest."""
        if clip_id not in self._clips:
            self.look_up([clip_id])
        if clip_id not in self._clips:
            name = storage.display(self._manifest_uri)
            raise ConfigError(f"{name}: no clip {clip_id}: not the manifest that the shards were made from")
        return self._clips[clip_id]

    def _augmentation(self, row: dict[str, Any]) -> Augmentation:
        """The engine and the background recording that the row was made with."""
        binding, name = self._made["binding"], Transform.from_json(row["transform_params"]).background
        engine = binding.get("engine") or "r2"
        if not name:
            return Augmentation(engine=engine)
        folder = self._made["flags"]["backgrounds"]
        found = {one.name: one for one in backgrounds.find(folder)}
        if name not in found:
            raise ConfigError(f"{storage.display(storage.to_uri(folder))}: the background recording {name} is gone")
        etag = dict(binding["backgrounds"])[name]  # as it was then: another one is refused
        return Augmentation(engine=engine, backgrounds=(replace(found[name], etag=etag),))

    def _segment(self, clip: dict[str, Any], index: int) -> Segment:
        name = storage.display(clip["uri"])
        opened = storage.open_ranged(clip["uri"], clip["etag"])
        with Recording(opened, name, clip["start_s"], clip["end_s"]) as recording:
            # A stream is decoded from its beginning, as it was then.
            first = 0 if recording.n_frames is None else index
            for part in segment.segments(recording, self._grid, first, index + 1):
                if part.index == index:
                    return part
        raise ConfigError(f"{name}: has no segment {index} any more")
