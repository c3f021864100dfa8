"""Clips with one stretched and pitch-shifted copy each, against pyrubberband's two passes, in one run, on two cores.

Ours is the whole job: read, decode, one pass of the engine, log-mel pictures of original and copy, Parquet. The rival
reads a clip, stretches it and then shifts it, and keeps nothing. Steady rates, rounds interleaved, since the machine's
speed drifts.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# Ours is so anyway, by Ray; set before numpy is imported, and inherited by every process.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import corpus
import numpy as np

PROCESSES = 2
STRETCH, PITCH_SEMITONES = (0.8, 1.25), (-2.0, 2.0)
"""As of the transform set stretch-pitch."""

REQUIRED = 1.6


def _two_passes(seed: int, clip: tuple[int, str]) -> int:
    import pyrubberband
    import soundfile

    number, path = clip
    rng = np.random.default_rng([seed, number])
    samples, rate = soundfile.read(path, dtype="float32")
    stretched = pyrubberband.time_stretch(samples, rate, 1 / rng.uniform(*STRETCH))
    return len(pyrubberband.pitch_shift(stretched, rate, rng.uniform(*PITCH_SEMITONES)))


def by_two_passes(folder: Path, n: int, seed: int) -> float:
    clips = [(i, str(path)) for i, path in enumerate(sorted((folder / "noise").iterdir())[:n])]
    work = partial(_two_passes, seed)
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(work, clips[:PROCESSES] * 2, chunksize=1)  # warm
        began = time.perf_counter()
        done = sum(1 for _ in pool.imap_unordered(work, clips))
        return done / (time.perf_counter() - began)


def ours(manifest: Path, output: Path, n: int, seed: int) -> float:
    flags = ("--segment-s", "5", "--augment", "stretch-pitch", "--copies", "1", "--seed", str(seed))
    run = corpus.extract(manifest, output, *flags, "--limit", str(n), "--num-actors", str(PROCESSES), watched=False)
    shutil.rmtree(output)
    return run.clips_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2_000)
    parser.add_argument("--rival-clips", type=int, default=600, help="its rate is steady from the first one on")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-augment-"))
    rates: dict[str, list[float]] = {"audioclf": [], "pyrubberband twice": []}
    try:
        folder = corpus.hard_linked_clips(scratch / "clips", max(flags.clips, flags.rival_clips))
        manifest = scratch / "manifest.parquet"
        corpus.run_job("manifest", "--input", str(folder), "--output", str(manifest))
        for seed in range(flags.rounds):
            rates["audioclf"].append(ours(manifest, scratch / "run", flags.clips, seed))
            rates["pyrubberband twice"].append(by_two_passes(folder, flags.rival_clips, seed))
            print("  ".join(f"{name}: {values[-1]:.2f} clips/s" for name, values in rates.items()), flush=True)
    finally:
        shutil.rmtree(scratch)
    mine, theirs = (statistics.median(values) for values in rates.values())
    ratio = mine / theirs
    print(
        f"\nmedians of {flags.rounds}: {mine:.2f} and {theirs:.2f} clips/s: ours is {ratio:.2f} times pyrubberband's "
        f"two passes (required {REQUIRED})"
    )
    sys.exit(ratio < REQUIRED)


if __name__ == "__main__":
    main()
