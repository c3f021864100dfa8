"""Rows → a spectrogram shard, piece by piece; `shards` reads it."""

import json
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import schema
from audioclf.audio.half_precision import to_float16
from audioclf.audio.pcm import AnyFrontEnd


class ShardWriter:
    """Writes a shard piece by piece, so that memory does not grow with its length.

    Args:
        file: to write to; None: encode, and keep nothing.
        front_end: goes into the file's metadata, as does config_digest.
        segment_samples: of each segment, at the front end's rate.
        config_digest: of the run's configuration.
        buffer_bytes: of pictures held; a row group is written when there are more.
    """

    def __init__(
        self,
        file: BinaryIO | None,
        front_end: AnyFrontEnd,
        segment_samples: int,
        config_digest: str,
        buffer_bytes: int = 128 << 20,
    ):
        shape = front_end.n_features, front_end.n_frames(segment_samples)
        metadata = {
            schema.META_VERSION: schema.SHARD_VERSION,
            schema.META_FRONT_END: json.dumps(front_end.to_dict(), sort_keys=True),
            schema.META_CONFIG_DIGEST: config_digest,
        }
        self._column, self._dtype = front_end.column, np.dtype(front_end.dtype)
        self._schema = schema.shard(self._column, self._dtype.name, *shape).with_metadata(metadata)
        self._group_rows = max(1, buffer_bytes // (2 * shape[0] * shape[1]))
        self._rows: list[dict[str, Any]] = []
        self._pictures = np.empty((self._group_rows, *shape), self._dtype)
        self.rows = 0
        # zstd 1, no dictionary and no statistics of the pictures: of what was tried the fastest to write and to read.
        names = [name for name in self._schema.names if name != self._column]
        self._parquet = pq.ParquetWriter(
            file or pa.MockOutputStream(),
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=names,  # pyright: ignore[reportArgumentType]
            write_statistics=["clip_id", "fold", "copy_index"],  # pyright: ignore[reportArgumentType]
        )

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close()

    def add(self, row: dict[str, Any], picture: np.ndarray) -> None:
        """A row of every column but the picture's, and its picture [n_features, n_frames]: see `audio.features`."""
        place = self._pictures[len(self._rows)]
        if self._dtype == np.float16:
            to_float16(picture, place)
        else:
            place[:] = picture
        self._rows.append(row)
        self.rows += 1
        if len(self._rows) == self._group_rows:
            self._write_group()

    def finish(self, counts: dict[str, Any]) -> None:
        """Write what is held, and the counts of the unit of work."""
        if self._rows or not self.rows:
            self._write_group()
        self._parquet.add_key_value_metadata({schema.META_UNIT: json.dumps(counts, sort_keys=True).encode()})
        self._parquet.close()

    def _write_group(self) -> None:
        columns = {name: [row[name] for row in self._rows] for name in self._schema.names if name != self._column}
        n, of_pictures = len(self._rows), self._schema.field(self._column).type
        columns[self._column] = pa.Array.from_buffers(of_pictures, n, [None, pa.py_buffer(self._pictures[:n])])
        self._parquet.write_table(pa.table(columns, schema=self._schema), row_group_size=max(1, n))
        self._rows = []
