"""Neighbouring windows with one tag → events."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from audioclf.schema import EVENT

ROUNDING_S = 1e-6
"""Windows this far apart touch: their bounds are sums of hops."""

TAKE_ROWS = 1 << 20  # a chunk of a string column holds 2 GiB at most


def merge(tags: pa.Table, gap_s: float = 0.0) -> pa.Table:
    """Make one event of adjacent or overlapping windows of a recording that have the same tag.

    A window belongs to the event before it if it begins at most `gap_s` after the latest end so far. The order of a
    recording's rows makes no difference.

    Args:
        tags: rows of schema.TAG, one for each window and tag; a recording has one uri and time, a tag one mid. All are
            held in memory.
        gap_s: seconds between windows of one event at most.

    Returns:
        Rows of schema.EVENT: recordings in the order in which they come in `tags`, the events of each by start, then
        by descending probability, then by tag.
    """
    if not len(tags):
        return EVENT.empty_table()
    recording, clip_ids = _encoded(tags["clip_id"])
    tag, names = _encoded(tags["tag"])
    by_name = pc.call_function("sort_indices", [names]).to_numpy()
    recording_row, tag_row = _first_rows(recording), _first_rows(tag)[by_name]
    place = np.empty_like(by_name)
    place[by_name] = np.arange(len(by_name))
    group = recording * len(names) + place[tag].astype(np.int64)

    start, probability = tags["start_s"].to_numpy(), tags["probability"].to_numpy()
    order = np.lexsort((start, group))
    group, start, probability = group[order], start[order], probability[order]
    latest_end = _running_maximum(group, tags["end_s"].to_numpy()[order])

    begins = np.ones(len(group), bool)
    begins[1:] = (group[1:] != group[:-1]) | (start[1:] > latest_end[:-1] + (gap_s + ROUNDING_S))
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(group)) - 1
    windows = last - first + 1
    highest = np.maximum.reduceat(probability, first)
    mean = np.add.reduceat(probability.astype(np.float64), first) / windows
    start, end = start[first], latest_end[last]
    recording, tag = np.divmod(group[first], len(names))

    order = _order(recording, start, highest)
    recording, tag = recording[order], tag[order]
    columns = {
        "clip_id": _take(clip_ids, recording),
        "uri": _take(tags["uri"].take(recording_row), recording),
        "recorded_at": _take(tags["recorded_at"].take(recording_row), recording),
        "start_s": start[order],
        "end_s": end[order],
        "tag": _take(names.take(pa.array(by_name)), tag),
        "mid": _take(tags["mid"].take(tag_row), tag),
        "probability": highest[order],
        "mean_probability": mean[order].astype(np.float32),
        "windows": windows[order].astype(np.int32),
    }
    return pa.table(columns, schema=EVENT)


def _encoded(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Of strings: int64[n] numbers in the order of first appearance, and what they stand for."""
    chunks = column.dictionary_encode().unify_dictionaries().chunks
    return np.concatenate([chunk.indices.to_numpy() for chunk in chunks]).astype(np.int64), chunks[0].dictionary


def _first_rows(codes: np.ndarray) -> np.ndarray:
    """Where each of the numbers 0 to n appears first."""
    rows = np.empty(codes.max() + 1, np.int64)
    rows[codes[::-1]] = np.arange(len(codes))[::-1]  # the last to be written stays
    return rows


def _running_maximum(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of the values so far within each group.

    Args:
        group: integers in ascending order.
        values: as many.
    """
    pairs = np.empty(len(group), np.complex128)  # compared by their real parts first
    pairs.real, pairs.imag = group, values
    return np.imag(np.maximum.accumulate(pairs))


def _order(recording: np.ndarray, start: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """By recording, start and descending probability; what is alike stays in its order.

    Args:
        recording: integers in ascending order.
        start: seconds.
        probability: float32, not negative.
    """
    order = np.lexsort((start, recording))
    recording, start = recording[order], start[order]
    differs = (recording[1:] != recording[:-1]) | (start[1:] != start[:-1])
    place = np.concatenate([[0], np.cumsum(differs)])
    # One number, nearly in order, sorts several times as fast as a third column. The bits of floats that are not
    # negative are in the floats' order.
    key = (place << 32) - probability[order].view(np.int32)
    return order[np.argsort(key, kind="stable")]


def _take(values: pa.Array | pa.ChunkedArray, codes: np.ndarray) -> pa.ChunkedArray:
    chunks = []
    for start in range(0, len(codes), TAKE_ROWS):
        taken = values.take(pa.array(codes[start : start + TAKE_ROWS]))
        chunks += taken.chunks if isinstance(taken, pa.ChunkedArray) else [taken]
    return pa.chunked_array(chunks, values.type)
