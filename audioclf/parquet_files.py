"""Parquet files of any kind: read whole or piece by piece, damage told by name; rows encoded."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audioclf import storage
from audioclf.errors import SchemaError


def read(uri: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file, or some of its columns.

    Raises:
        SchemaError: damaged, or not a Parquet file.
    """
    with storage.open_ranged(uri) as file, _damage_told(uri):
        return pq.read_table(file, columns=columns)


def metadata(uri: str) -> dict[bytes, bytes]:
    """The schema metadata of a Parquet file, from its footer alone. Raises SchemaError: damaged, or none."""
    with opened(uri) as file:
        return file.schema_arrow.metadata or {}


@contextlib.contextmanager
def opened(uri: str, block_bytes: int | None = None) -> Iterator[pq.ParquetFile]:
    """A file, to be read piece by piece.

    Args:
        uri: of the file.
        block_bytes: read at a time; None: each column of a row group as a whole.

    Raises:
        SchemaError: damaged, or not a Parquet file; raised by what is read in the with-block as well.
    """
    block = block_bytes or storage.RANGE_BLOCK_BYTES
    with storage.open_ranged(uri, block_bytes=block) as source, _damage_told(uri):
        yield pq.ParquetFile(source, buffer_size=block_bytes or 0)


@contextlib.contextmanager
def _damage_told(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:  # the store's own errors are no OSError
        raise SchemaError(f"{storage.display(uri)}: damaged, or not a Parquet file: {error}") from error


def encode(rows: Sequence[dict[str, Any]], target: pa.Schema) -> bytes:
    """A Parquet file of rows; of a dictionary, the columns of the schema are taken."""
    columns = {name: [row[name] for row in rows] for name in target.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=target), buffer, compression="zstd")
    return buffer.getvalue()
