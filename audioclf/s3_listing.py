"""Listing a long S3 prefix in parallel: the store gives a thousand keys a request, one request after the other."""

import itertools
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from audioclf import s3

Page = dict[str, Any]
"""Of boto3, whose stubs call every field optional."""

THREADS = 16
FEW_FOLDERS = 64
"""Fewer folders than this may be of very different sizes: those in them are looked up as well."""
FOLDER_PAGES = 10
"""Pages of folders that are read at most: where there are more, the last range is long."""
RANGES = 256


def objects(bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """All objects whose key begins with a prefix, as boto3 describes them, in no particular order.

    More than a page of them are cut into ranges of keys at the names of folders, which are read side by side. Any
    keys would do to cut at: each object lies in one range whatever its name. A prefix without folders is one range.

    Raises:
        ConfigError: there is no such bucket.
        StorageError: the store can't be reached or refuses.
    """
    first = _page(bucket, prefix, "")
    if not first.get("IsTruncated"):
        yield from first.get("Contents", [])
        return
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="listing")
    try:
        cuts = _cuts(pool, bucket, prefix)
        in_flight: dict[Future[Page], _Range] = {}
        for keys in map(_Range, ["", *cuts], [*cuts, None]):
            in_flight[pool.submit(_page, bucket, prefix, keys.after)] = keys
        while in_flight:
            for done in wait(in_flight, return_when=FIRST_COMPLETED).done:
                keys, page = in_flight.pop(done), done.result()
                found = page.get("Contents", [])
                inside = [entry for entry in found if keys.last is None or entry["Key"] <= keys.last]
                if page.get("IsTruncated") and len(inside) == len(found):
                    more = pool.submit(
                        _page, bucket, prefix, keys.after, ContinuationToken=page["NextContinuationToken"]
                    )
                    in_flight[more] = keys
                yield from inside
    finally:
        pool.shutdown(cancel_futures=True)


class _Range(NamedTuple):
    """The keys after one, up to and including another (None: to the end)."""

    after: str
    last: str | None


def _page(bucket: str, prefix: str, after: str, **query: str) -> Page:
    def ask(client: Any) -> Page:
        return client.list_objects_v2(Bucket=bucket, Prefix=prefix, StartAfter=after, **query)

    return s3.retrying(f"s3://{bucket}/{prefix}", ask)


def _cuts(pool: ThreadPoolExecutor, bucket: str, prefix: str) -> list[str]:
    """Prefixes of folders, of the first level or the first two, sorted, and not too many."""
    folders = _folders(bucket, prefix)
    if len(folders) < FEW_FOLDERS:
        below = pool.map(lambda folder: _folders(bucket, folder), folders)
        folders = [*folders, *itertools.chain.from_iterable(below)]
    return sorted(folders)[:: -(-len(folders) // RANGES) or 1]


def _folders(bucket: str, prefix: str) -> list[str]:
    pages: Iterator[Any] = itertools.islice(s3.pages(f"s3://{bucket}", Prefix=prefix, Delimiter="/"), FOLDER_PAGES)
    return [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", [])]
