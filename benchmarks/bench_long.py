"""A long recording, 192 kHz stereo 24 bit in RF64, against the same audio cut beforehand into ten files."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import corpus
import numpy as np
import soundfile

from audioclf import shards

RATE, SEGMENT_S, FILES = 192_000, 10, 10
WORKER_MB = 1000


def write(folder: Path, hours: float) -> None:
    """folder/whole/a.wav and folder/cut/0.wav to 9.wav: noise of changing loudness, no two segments alike."""
    segments = round(hours * 3600 / SEGMENT_S / FILES) * FILES
    rng = np.random.default_rng(0)
    noise = (rng.normal(scale=2**20, size=(SEGMENT_S * RATE, 2)) * 256).astype(np.int32)
    for name in ("whole", "cut"):
        (folder / name).mkdir(parents=True)
    how = {"samplerate": RATE, "channels": 2, "subtype": "PCM_24", "format": "RF64"}
    with soundfile.SoundFile(folder / "whole" / "a.wav", "w", **how) as whole:
        for i in range(FILES):
            with soundfile.SoundFile(folder / "cut" / f"{i}.wav", "w", **how) as part:
                for j in range(segments // FILES):
                    block = np.roll(noise, rng.integers(len(noise)), axis=0) // (1 + (i + j) % 7)
                    whole.write(block)
                    part.write(block)


def pictures(run: Path) -> np.ndarray:
    """[N, n_mels, n_frames] in the order of the recording: by file, then by segment."""
    examples = shards.load([str(run)], copies=False)
    order = sorted(
        range(len(examples)), key=lambda i: (examples.columns["uri"][i], examples.columns["segment_index"][i])
    )
    return examples.log_mel[order].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="4.1 GB an hour, twice")
    flags = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-long-"))
    try:
        write(scratch, flags.hours)
        runs = {}
        for name in ("whole", "cut"):
            manifest = scratch / f"{name}.parquet"
            corpus.run_job("manifest", "--input", str(scratch / name), "--output", str(manifest), "--layout", "flat")
            runs[name] = corpus.extract(manifest, scratch / f"{name}-run", "--segment-s", str(SEGMENT_S))
        whole, cut = (pictures(scratch / f"{name}-run") for name in ("whole", "cut"))
    finally:
        shutil.rmtree(scratch)
    run = runs["whole"]
    print(f"{flags.hours:g} h in {len(whole)} segments, {run.this_run['units']} units; {run.this_run['mb_per_s']} MB/s")
    print(f"CPU seconds of the workers: {', '.join(f'{seconds:.0f}' for seconds in run.worker_cpu_s)}")
    print(f"largest worker {run.worker_peak_mb:.0f} MB (required: under {WORKER_MB})")
    # A cut lies between two segments: the filter's length at it is some ms of the frames beside it.
    difference = np.abs(whole - cut)
    inside = np.ones(len(whole), bool)
    per_file = len(whole) // FILES
    inside[::per_file] = inside[per_file - 1 :: per_file] = False
    print(f"largest difference to the cut files: {difference[inside].max():.4f} dB away from the cuts, ", end="")
    print(f"{difference[~inside][:, :, 1:-1].max():.4f} dB beside them but for the frames at the cut itself")
    sys.exit(int(run.worker_peak_mb >= WORKER_MB or difference[inside].max() > 0))


if __name__ == "__main__":
    main()
