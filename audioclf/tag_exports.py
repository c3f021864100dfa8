"""Tags and events as files that other programs open: CSV, JSON Lines, labels for Audacity."""

import io
import itertools
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from audioclf import read_ahead, storage
from audioclf.errors import ConfigError

BATCH_ROWS = 1 << 16
FILE_NAME_BYTES = 100

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(?=\.|\Z)", re.IGNORECASE)


def write(tables: Iterable[pa.Table], format_: str, uri: str, schema: pa.Schema | None = None) -> None:
    """Write rows to one file, table by table: it appears as a whole at the end.

    Times are ISO 8601 in UTC, numbers as short as their type allows (0.87 for a float32), text is UTF-8 and as it is.
    Also where a spreadsheet would take it for a formula (=, +, -, @, tab or carriage return come first): data is not
    changed on its way. Whoever opens a CSV of names from strangers in a spreadsheet imports its columns as text.

    Args:
        tables: rows of schema.TAG or of schema.EVENT, all of one.
        format_: csv: a header, strings in quotes, unknown values empty without quotes. jsonl: an object a line, null
            for what is not known.
        uri: the file.
        schema: of the tables, where there may be none of them: a CSV has its header all the same.

    Raises:
        ConfigError: no such format.
        StorageError: the disk is full, or the store can't be reached or refuses.
    """
    if format_ not in ("csv", "jsonl"):
        raise ConfigError(f"{format_!r} is no format of rows in one file; give csv or jsonl")
    to_text = _csv if format_ == "csv" else _json_lines
    with storage.create(uri) as file:
        header_due = format_ == "csv"
        for table in itertools.chain([schema.empty_table()] if schema else [], tables):
            if header_due:
                file.write(",".join(table.column_names).encode() + b"\n")
                header_due = False
            for batch in table.to_batches(max_chunksize=BATCH_ROWS):
                file.write(to_text(batch))


def _csv(batch: pa.RecordBatch) -> memoryview:
    columns = [_time_text(column) if pa.types.is_timestamp(column.type) else column for column in batch.columns]
    sink = io.BytesIO()
    rows = pa.record_batch(columns, names=batch.schema.names)
    pacsv.write_csv(rows, sink, pacsv.WriteOptions(include_header=False))
    return sink.getbuffer()


def _json_lines(batch: pa.RecordBatch) -> bytes:
    parts: list[pa.Array | pa.StringScalar] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts += [pa.scalar(f"{', ' if parts else '{'}{json.dumps(name)}: "), _json_values(column)]
    lines = pc.call_function("binary_join_element_wise", [*parts, pa.scalar("}\n"), pa.scalar("")])
    return "".join(lines.to_pylist()).encode()


def _json_values(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        column = _time_text(column)
    if pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        values = [json.dumps(text, ensure_ascii=False) for text in encoded.dictionary.to_pylist()]
        texts = pa.array(values, pa.string()).take(encoded.indices)
    else:
        texts = column.cast(pa.string())
    return texts.fill_null("null")


def _time_text(times: pa.Array) -> pa.Array:
    text = pc.call_function("strftime", [times], pc.StrftimeOptions("%Y-%m-%dT%H:%M:%SZ"))
    return pc.call_function("replace_substring", [text], pc.ReplaceSubstringOptions(".000000Z", "Z"))


# --- Audacity


def write_audacity(events: Iterable[pa.Table], folder_uri: str) -> int:
    """Write a file of labels for each recording, to be opened beside it: File, Import, Labels.

    A line is `start<TAB>end<TAB>label`, in seconds, the label a tag and its probability: Bird 0.87. The files are
    named after the recordings: NAME.CLIP.txt, of the percent-encoded last part of its uri without suffix and the first
    eight characters of its clip_id, or all of them where two would be named alike.

    Args:
        events: rows of schema.EVENT, or of schema.TAG; those of one recording are neighbours, over the bounds of
            tables too.
        folder_uri: where the files go. Recordings without rows get none.

    Returns:
        How many files.

    Raises:
        StorageError: the disk is full, or the store can't be reached or refuses.
    """
    return sum(1 for _ in read_ahead.each(lambda file: storage.write_bytes(*file), _label_files(events, folder_uri)))


def _label_files(events: Iterable[pa.Table], folder_uri: str) -> Iterator[tuple[str, bytes]]:
    """Their URIs and contents."""
    local = storage.local_path(folder_uri) is not None
    owners: dict[str, str] = {}  # of file names, as a file system without upper case sees them
    for clip_id, group in itertools.groupby(_label_rows(events), key=lambda row: row[0]):
        rows = list(group)
        uri = rows[0][1]
        name = _file_name(uri, clip_id[:8])
        if owners.get(name.lower(), clip_id) != clip_id:
            name = _file_name(uri, clip_id)
        assert name.lower() not in owners, f"rows of {uri} in two places"
        owners[name.lower()] = clip_id
        text = "".join(
            f"{start:.6f}\t{end:.6f}\t{_CONTROL.sub(' ', tag)} {probability:.2f}\n"
            for _, _, start, end, tag, probability in rows
        )
        # A local file's URI is percent-encoded, so that the name's own % is as well.
        yield storage.join(folder_uri, storage.quote(name) if local else name), text.encode()


def _label_rows(events: Iterable[pa.Table]) -> Iterator[tuple[str, str, float, float, str, float]]:
    for table in events:
        rows = table.select(["clip_id", "uri", "start_s", "end_s", "tag", "probability"])
        for batch in rows.to_batches(max_chunksize=BATCH_ROWS):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _file_name(uri: str, clip: str) -> str:
    """Of [A-Za-z0-9._-] and %, at most 100 bytes, and allowed on every file system."""
    last = uri.rsplit("/", 1)[-1]
    raw = urllib.parse.unquote_to_bytes(last) if uri.startswith("file://") else last.encode()
    name = _quote(raw.rpartition(b".")[0] or raw)
    if name.startswith(".") or _DEVICE.match(name):  # hidden, or a device's on Windows
        name = f"%{ord(name[0]):02X}{name[1:]}"
    ending = f".{_quote(clip.encode())}.txt"
    return re.sub(r"%.?\Z", "", name[: FILE_NAME_BYTES - len(ending)]) + ending


def _quote(raw: bytes) -> str:
    return urllib.parse.quote_from_bytes(raw, safe="").replace("~", "%7E")
