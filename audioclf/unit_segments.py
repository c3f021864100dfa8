"""The segments of a recording that lie in a unit of work, and rejects for those that can't be had."""

from collections.abc import Iterator
from typing import Any

from audioclf import storage
from audioclf.audio import segment
from audioclf.audio.recording import Recording
from audioclf.audio.segment import Grid, Segment
from audioclf.errors import ChangedClipError, ClipError, DecodeError
from audioclf.units import Unit


def of(
    recording: Recording, unit: Unit, grid: Grid, clip: dict[str, Any], rejects: list[dict[str, Any]]
) -> Iterator[Segment | None]:
    """The segments; None for one that is no sound. Where the file breaks off after some, the rest are rejected.

    Args:
        recording: of the clip.
        unit: which of its segments are wanted.
        grid: where they begin.
        clip: row of the manifest.
        rejects: rows for segments that can't be had are appended.

    Raises:
        ClipError: broken from the first one on; or longer or shorter than when its units were planned.
    """
    first, stop = _wanted(unit, recording, grid)
    index = first
    error: ClipError = DecodeError(storage.display(clip["uri"]), "decode", "the file ends before its header says")
    try:
        for part in segment.segments(recording, grid, first, stop):
            if not part.finite:
                nothing = DecodeError(error.clip_uri, "decode", "samples that are NaN, infinite or beyond all measure")
                rejects.append(reject_row(clip, nothing, part.index))
            yield part if part.finite else None
            index += 1
    except (ClipError, MemoryError) as broken:
        if isinstance(broken, MemoryError):
            broken = DecodeError(error.clip_uri, "decode", "needs more memory than a worker has")
        if index == first:
            raise broken from None
        error, stop = broken, stop or index + 1
    for rest in range(index, stop or index):
        rejects.append(reject_row(clip, error, rest))
        yield None


def bytes_of(clip: dict[str, Any], unit: Unit, n_segments: int) -> int:
    """Of a clip's file, what n_segments of it take."""
    return clip["size_bytes"] * n_segments // unit.segments_total if unit.segments_total else clip["size_bytes"]


def _wanted(unit: Unit, recording: Recording, grid: Grid) -> tuple[int, int | None]:
    """Which segments of a recording lie in a unit; None where only reading a stream to its end will tell.

    Raises:
        ChangedClipError: it is longer or shorter than when its units were planned.
    """
    frames = recording.n_frames
    if not unit.segments_total:
        return 0, None if frames is None else int(grid.count_frames(frames, recording.sample_rate))
    total = int(grid.count_frames(recording.promised_frames, recording.sample_rate))
    if total != unit.segments_total:
        message = f"planned as {unit.segments_total} segments, it has {total} now; make the manifest anew"
        raise ChangedClipError(recording.name, "decode", message)
    return unit.first_segment, unit.stop_segment


def reject_row(
    clip: dict[str, Any], error: ClipError, segment_index: int | None = None, copy_index: int | None = None
) -> dict[str, Any]:
    """A row of the rejects; no segment stands for the whole clip, or what of it lies in the unit, no copy for all."""
    return {
        "clip_id": clip["clip_id"],
        "uri": clip["uri"],
        "segment_index": segment_index,
        "copy_index": copy_index,
        "stage": error.stage,
        "error": type(error).__name__,
        "message": error.message,
    }
