"""What lies in an archive, and which of it is due."""

import time
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from audioclf import layouts, manifest, schema, storage
from audioclf.errors import ConfigError
from audioclf.ledger import Ledger
from audioclf.listing import Heartbeat, batches
from audioclf.recording_times import RecordingTime
from audioclf.storage import FileInfo

MANIFEST_SUFFIX = ".parquet"

CLOCKS_DIFFER_S = 86_400.0
"""At most, of a recorder and this machine. A file modified later than that in the future has kept the time of a clock
that was set wrong: it says nothing of whether the recorder is still writing, and must not wait until its day comes.
"""

_TIME = schema.MANIFEST.field("recorded_at").type

_LISTED = pa.schema([("clip_id", pa.string()), ("path", pa.string()), ("uri", pa.string()), ("size_bytes", pa.int64()),
                     ("etag", pa.string()), ("modified_s", pa.float64())])  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """The recordings of an input.

    Attributes:
        table: a manifest's, or of a listing clip_id, path, uri, size_bytes, etag and modified_s.
        is_manifest: which of them; a manifest need not name all there are.
        passed_over: files that are no audio by their names, in words; empty if there are none.
    """

    table: pa.Table
    is_manifest: bool
    passed_over: str = ""

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True)
class Due:
    """What a run is to do.

    Attributes:
        table: rows of a manifest.
        tried: [N] bool, which of them were dealt with before, and rejected.
        too_young: recordings left for next time.
        from_the_future: recordings whose time of modification is still to come, by more than clocks differ.
        undated: recordings whose name tells no time, or none that exists, though one was expected.
        undated_example: the path of one of them.
        changed: recordings that were dealt with before, and have another size or etag now.
        gone: recordings that were there when the input was last listed; 0 for a manifest, which need not name all.
    """

    table: pa.Table
    tried: np.ndarray
    too_young: int
    from_the_future: int
    undated: int
    undated_example: str
    changed: int
    gone: int


def find(input_: str, may_be_empty: bool = False) -> Archive:
    """The recordings of a manifest, or below a folder or prefix.

    Args:
        input_: as typed.
        may_be_empty: whether no recording below a folder or prefix is an outcome like others.

    Raises:
        ConfigError: no such thing, or a manifest that names a clip twice.
    """
    uri = storage.to_uri(input_)
    if uri.endswith(MANIFEST_SUFFIX):
        table = manifest.read(uri).table
        manifest.require_each_once(table["clip_id"], input_)
        return Archive(table, is_manifest=True)
    heartbeat, done = Heartbeat("tag", "recordings"), 0
    tables = [_LISTED.empty_table()]
    listing = layouts.list_audio(uri, may_be_empty)
    for batch in batches(listing.files):
        tables.append(_listed(batch))
        heartbeat.show(done := done + len(batch))
    return Archive(pa.concat_tables(tables), is_manifest=False, passed_over=listing.passed_over)


def _listed(files: list[FileInfo]) -> pa.Table:
    columns = {name: [getattr(info, name) for info in files] for name in _LISTED.names if name != "clip_id"}
    return pa.table({"clip_id": [manifest.clip_id(info.path) for info in files], **columns}, schema=_LISTED)


def due(
    archive: Archive,
    known: Ledger,
    min_age_s: float,
    times: RecordingTime | None,
    limit: int | None,
    retry_rejected: bool = False,
) -> Due:
    """The recordings that are new, changed or to be retried, and old enough; the first, in the listing's order.

    Args:
        archive: what there is.
        known: what has been dealt with.
        min_age_s: since the last modification, so that no recorder is still writing; 0 for a manifest.
        times: when a recording was made, by its name; None for a manifest.
        limit: take no more than so many; new and changed ones first.
        retry_rejected: those rejected before, too.
    """
    new, tried = known.due(archive.table, retry_rejected)
    chosen = new | tried
    young = future = np.zeros(len(chosen), bool)
    if min_age_s:
        age_s = time.time() - archive.table["modified_s"].to_numpy()
        future = age_s < -CLOCKS_DIFFER_S
        young = (age_s < min_age_s) & ~future
    # New ones first: what can't be read, night after night, must not use up the limit.
    rows = np.sort(np.concatenate([np.flatnonzero(new & ~young), np.flatnonzero(tried & ~young)])[:limit])
    taken = np.zeros(len(chosen), bool)
    taken[rows] = True
    table = archive.table.filter(pa.array(taken))  # by `take`, Arrow refuses more than 2 GiB of names
    changed, gone = known.compare(archive.table)
    if archive.is_manifest:
        return Due(table, tried[rows], 0, 0, 0, "", changed, 0)
    columns = {name: table[name] for name in ("clip_id", "uri", "size_bytes", "etag")}
    if times:
        columns["recorded_at"] = pa.array([_recorded_at(path.as_py(), times) for path in table["path"]], _TIME)
    undated = table["path"].filter(columns["recorded_at"].is_null()) if times else []
    return Due(
        manifest.of_columns(columns),
        tried[rows],
        int((chosen & young).sum()),
        int(future[rows].sum()),
        len(undated),
        storage.unquote(undated[0].as_py()) if len(undated) else "",
        changed,
        gone,
    )


def _recorded_at(path: str, times: RecordingTime) -> datetime | None:
    try:
        return times.of(storage.unquote(path))
    except ConfigError:  # month 13: one name must not hold up an archive
        return None
