"""The S3 store that the environment names, and buckets there."""

from collections.abc import Mapping

import boto3
import pytest

from audioclf import s3


def use_store(environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process's clients speak to the store of these AWS variables."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it had first
    s3.client.cache_clear()


def new_bucket() -> str:
    """A new, empty one."""
    client = boto3.client("s3")
    name = f"bucket-{len(client.list_buckets()['Buckets'])}"
    client.create_bucket(Bucket=name)
    return name
