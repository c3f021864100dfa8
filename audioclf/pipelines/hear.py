"""A row of shards → the sound that its picture was made from. Needs no Ray."""

import io
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile

from audioclf import backgrounds, manifest, rundir, shards, storage
from audioclf.audio import augment, pcm, segment
from audioclf.audio.augment import Transform
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid, Segment
from audioclf.augmentation import Augmentation
from audioclf.config import HearConfig
from audioclf.errors import ClipError, ConfigError
from audioclf.extraction import ExtractPlan
from audioclf.rundir import RunDirectory

log = logging.getLogger("audioclf")

ROW_COLUMNS = ["clip_id", "segment_index", "copy_index", "transform_set", "transform_params", "content_digest"]
CLIP_COLUMNS = ["clip_id", "uri", "etag", "start_s", "end_s"]

NAMED = 20
"""Things that an error names at most."""


def run(config: HearConfig) -> str:
    """Find the row, read its segment, transform it as it was, write it.

    A stretched copy is written whole; its picture shows as much of it as a segment holds.
    """
    storage.reach(config.shards, config.output)
    directory = RunDirectory(config.shards)
    made = rundir.read_json(directory.at(rundir.CONFIG))
    if made is None or made["job"] != "extract":
        raise ConfigError(f"--shards {config.shards}: not a run directory of jobs/extract.py")
    row = _row(directory, config)
    front_end = pcm.from_dict(made["binding"]["front_end"])
    manifest_uri = storage.to_uri(made["flags"]["manifest"])
    plan = ExtractPlan(
        manifest_uri, directory.uri, front_end, made["binding"]["segment_s"], "", _augmentation(made, row)
    )
    clip = _clip(manifest_uri, config.clip_id)
    try:
        samples = _samples(plan, clip, row)
    except ClipError as error:  # here nothing else is left to do
        raise ConfigError(str(error)) from error
    content = io.BytesIO()
    soundfile.write(content, samples, front_end.sample_rate, format="WAV", subtype="FLOAT")
    storage.write_bytes(storage.to_uri(config.output), content.getvalue())
    log.info(
        "hear: segment %d, copy %d (%s %s) of %s: %.3f s at %d Hz; wrote %s",
        config.segment, config.copy, row["transform_set"], row["transform_params"], storage.display(clip["uri"]),
        len(samples) / front_end.sample_rate, front_end.sample_rate, config.output,
    )  # fmt: skip
    return "ok"


def _row(directory: RunDirectory, config: HearConfig) -> dict[str, Any]:
    """The row asked for.

    Raises:
        ConfigError: there is none; says what there is.
    """
    others: list[str] = []
    of_clip: list[dict[str, Any]] = []
    for uri in shards.committed_files(directory.uri):
        table = shards.read_table(uri, ROW_COLUMNS)
        if len(others) < NAMED:
            others += table["clip_id"].unique().to_pylist()[: NAMED - len(others)]
        of_clip += table.filter(pc.field("clip_id") == config.clip_id).to_pylist()
        for row in of_clip:
            if (row["segment_index"], row["copy_index"]) == (config.segment, config.copy):
                return row
    rejected = _why_rejected(directory, config)
    if not of_clip:
        raise ConfigError(rejected or f"{directory}: no clip {config.clip_id}; there are {_some(others)}")
    copies = {row["copy_index"]: row["transform_set"] for row in of_clip if row["segment_index"] == config.segment}
    if not copies:
        there = _some(sorted({row["segment_index"] for row in of_clip}))
        raise ConfigError(rejected or f"clip {config.clip_id} has no segment {config.segment}; there are {there}")
    there = _some([f"{index} ({name})" for index, name in sorted(copies.items())])
    where = f"segment {config.segment} of clip {config.clip_id}"
    raise ConfigError(rejected or f"{where} has no copy {config.copy}; there are {there}")


def _some(names: list[Any]) -> str:
    return ", ".join(map(str, names[:NAMED])) + (" …" if len(names) >= NAMED else "")


def _why_rejected(directory: RunDirectory, config: HearConfig) -> str | None:
    """What the rejects say of the row; None where they do not name it."""
    for name in sorted(storage.names_in(directory.at(shards.REJECTS))):
        table = shards.read_table(directory.at(shards.REJECTS, name))
        for row in table.filter(pc.field("clip_id") == config.clip_id).to_pylist():
            if row["segment_index"] in (None, config.segment) and row["copy_index"] in (None, config.copy):
                return f"{storage.display(row['uri'])}: was rejected: {row['error']}: {row['message']}"
    return None


def _clip(manifest_uri: str, clip_id: str) -> dict[str, Any]:
    """The clip's row of the manifest."""
    table: pa.Table = manifest.read(manifest_uri, CLIP_COLUMNS).table.filter(pc.field("clip_id") == clip_id)
    if len(table) == 0:
        name = storage.display(manifest_uri)
        raise ConfigError(f"{name}: no clip {clip_id}: not the manifest that the shards were made from")
    return table.to_pylist()[0]


def _augmentation(made: dict[str, Any], row: dict[str, Any]) -> Augmentation:
    """The engine and the background recording that the row was made with."""
    binding, name = made["binding"], Transform.from_json(row["transform_params"]).background
    engine = binding.get("engine") or "r2"
    if not name:
        return Augmentation(engine=engine)
    folder = made["flags"]["backgrounds"]
    found = {one.name: one for one in backgrounds.find(folder)}
    if name not in found:
        raise ConfigError(f"{storage.display(storage.to_uri(folder))}: the background recording {name} is gone")
    etag = dict(binding["backgrounds"])[name]  # as it was then: another one is refused
    return Augmentation(engine=engine, backgrounds=(replace(found[name], etag=etag),))


def _samples(plan: ExtractPlan, clip: dict[str, Any], row: dict[str, Any]) -> np.ndarray:
    """[n] float32 at the front end's rate."""
    part = _segment(clip, plan.grid, row["segment_index"])
    name, rate = storage.display(clip["uri"]), plan.front_end.sample_rate
    if part.content_digest != row["content_digest"]:
        raise ConfigError(f"{name}: holds another sound than when its picture was made")
    transform = Transform.from_json(row["transform_params"])
    background = plan.augmentation.background_loader(rate)
    return augment.apply(transform, part.samples, rate, name, plan.augmentation.engine, background)


def _segment(clip: dict[str, Any], grid: Grid, index: int) -> Segment:
    name = storage.display(clip["uri"])
    with Recording(storage.open_ranged(clip["uri"], clip["etag"]), name, clip["start_s"], clip["end_s"]) as recording:
        first = 0 if recording.n_frames is None else index  # a stream is decoded from its beginning, as it was then
        for part in segment.segments(recording, grid, first, index + 1):
            if part.index == index:
                return part
    raise ConfigError(f"{name}: has no segment {index} any more")
