"""What is fetched of a recording on S3 for a unit that takes all of it, or a part."""

from typing import Any

import pytest

from audioclf import storage
from audioclf.fetch import Fetcher


@pytest.mark.parametrize("in_part", [False, True])
def test_of_a_recording_in_parts_no_unit_fetches_the_whole(
    s3_bucket: str, in_part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, content = f"s3://{s3_bucket}/long.wav", bytes(range(256)) * 1000
    storage.write_bytes(uri, content)
    read_bytes, whole = storage.read_bytes, []

    def noted(*args: Any) -> bytes:
        whole.append(args[0])
        return read_bytes(*args)

    monkeypatch.setattr(storage, "read_bytes", noted)
    fetcher = Fetcher(1 << 20)
    row = {"uri": uri, "etag": None, "size_bytes": len(content)}
    ((found, opener),) = fetcher([row], in_part)
    with opener() as file:
        file.seek(200_000)
        assert file.read(100) == content[200_000:200_100]
    fetcher.close()
    assert found == row
    assert whole == ([] if in_part else [uri])
