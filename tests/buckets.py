"""Buckets on whatever store the environment names."""

import boto3


def new_bucket() -> str:
    """A new, empty one."""
    client = boto3.client("s3")
    name = f"bucket-{len(client.list_buckets()['Buckets'])}"
    client.create_bucket(Bucket=name)
    return name
