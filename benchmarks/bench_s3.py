"""Extraction from a real S3 server on loopback, against bare GETs of the same objects and against local files.

Client and server share the cores. Were fetching and computing merely done one after the other, at their own best
rates, the rate would be 1 / (1/r_get + 1/r_local).
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus

from audioclf import manifest, storage
from audioclf.manifest import Clip, clip_id

PROCESSES, THREADS = 2, 8
REQUIRED = 0.85


def start_server(program: Path, folder: Path) -> None:
    """Start Ceph's gateway and put its address and keys into the environment."""
    said = subprocess.run([program, "start", folder, "7491"], stdout=subprocess.PIPE, text=True, check=True).stdout
    for word in said.strip().splitlines()[-1].split():
        name, _, value = word.partition("=")
        if value:
            os.environ[name] = value


def write_manifest(uri: str, files: list[storage.FileInfo], rows: int) -> None:
    """A manifest of so many rows over fewer files."""
    clips = [
        Clip(clip_id(f"{info.path}#{i}"), info.uri, info.size_bytes, info.etag)
        for i, info in ((i, files[i % len(files)]) for i in range(rows))
    ]
    manifest.write(manifest.to_table(clips), uri)


def _get(keys: list[str]) -> int:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=THREADS))
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda key: bool(client.get_object(Bucket="bench", Key=key)["Body"].read()), keys))


def bare_gets(keys: list[str], n: int) -> float:
    wanted = [keys[i % len(keys)] for i in range(n)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(_get, [keys[:20]] * PROCESSES, chunksize=1)  # warm
        began = time.perf_counter()
        done = sum(pool.map(_get, [wanted[i::PROCESSES] for i in range(PROCESSES)], chunksize=1))
        return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=3_000)
    parser.add_argument("--clips", type=int, default=12_000, help="rows of the manifest, each an object's GET")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    shared = Path(os.environ.get("AUDIOCLF_SHARED", corpus.ROOT.parent / "shared"))
    program = shared / "s3" / "ceph-s3"
    if not program.exists():
        print("left out: no s3/ceph-s3 in the folder that AUDIOCLF_SHARED names")
        return
    scratch = Path(tempfile.mkdtemp(prefix="bench-s3-"))
    start_server(program, scratch / "ceph")
    try:
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="bench")
        folder = corpus.hard_linked_clips(scratch / "clips", flags.objects)
        body = (folder / "noise" / "0000000.wav").read_bytes()
        keys = [f"noise/{i:07d}.wav" for i in range(flags.objects)]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda key: client.put_object(Bucket="bench", Key=key, Body=body), keys))
        for name, place in (("s3", "s3://bench/noise"), ("local", storage.to_uri(str(folder / "noise")))):
            uri = storage.to_uri(str(scratch / f"{name}.parquet"))
            write_manifest(uri, list(storage.list_files(place)), flags.clips)
        rates: dict[str, list[float]] = {"get": [], "local": [], "s3": []}
        for _ in range(flags.rounds):
            rates["get"].append(bare_gets(keys, flags.clips))
            for name in ("local", "s3"):
                run = corpus.extract(scratch / f"{name}.parquet", scratch / "run", "--segment-s", "5")
                rates[name].append(run.clips_per_s)
                shutil.rmtree(scratch / "run")
            print(", ".join(f"{name} {values[-1]:.0f} clips/s" for name, values in rates.items()), flush=True)
    finally:
        subprocess.run([program, "stop", scratch / "ceph"], check=True)
        shutil.rmtree(scratch, ignore_errors=True)
    get, local, s3 = (statistics.median(rates[name]) for name in ("get", "local", "s3"))
    bound = 1 / (1 / get + 1 / local)
    print(f"\nmedians: bare GETs {get:.0f}, local files {local:.0f}, S3 {s3:.0f} clips/s")
    print(f"ours is {s3 / bound:.2f} of 1 / (1/r_get + 1/r_local) = {bound:.0f} clips/s (required {REQUIRED})")
    sys.exit(s3 / bound < REQUIRED)


if __name__ == "__main__":
    main()
