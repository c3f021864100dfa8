"""Rate and memory of an extraction at 10,000 and at 40,000 clips, interleaved: they must not depend on the number."""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import corpus

SIZES, ROUNDS = (10_000, 40_000), 3


def main() -> None:
    scratch = Path(tempfile.mkdtemp(prefix="bench-linear-"))
    runs: dict[int, list[corpus.Extraction]] = {n: [] for n in SIZES}
    try:
        folder = corpus.hard_linked_clips(scratch / "clips", max(SIZES))
        manifest = scratch / "manifest.parquet"
        corpus.run_job("manifest", "--input", str(folder), "--output", str(manifest))
        for _ in range(ROUNDS):
            for n in SIZES:
                run = corpus.extract(manifest, scratch / "run", "--segment-s", "5", "--limit", str(n))
                runs[n].append(run)
                shutil.rmtree(scratch / "run")
                print(
                    f"{n:6d} clips: {run.clips_per_s:6.0f} clips/s, driver {run.driver_peak_mb:4.0f} MB, "
                    f"largest worker {run.worker_peak_mb:4.0f} MB", flush=True,
                )  # fmt: skip
    finally:
        shutil.rmtree(scratch)
    few, many = (statistics.median(run.clips_per_s for run in runs[n]) for n in SIZES)
    print(f"\nrate at {SIZES[1]:,} clips is {many / few:.2f} of that at {SIZES[0]:,} (required: within 0.10 of 1)")
    for who in ("driver", "worker"):
        peaks = [statistics.median(getattr(run, f"{who}_peak_mb") for run in runs[n]) for n in SIZES]
        print(f"peak memory of the {who}: {peaks[0]:.0f} and {peaks[1]:.0f} MB")
    sys.exit(abs(many / few - 1) > 0.10)


if __name__ == "__main__":
    main()
