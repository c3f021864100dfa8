"""A whole extraction to Parquet against librosa, lhotse and itself without Ray, in one run, on two cores.

Steady rates: start-up is shown apart. Rounds interleave all of them, since the machine's speed drifts.
"""

import argparse
import contextlib
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import corpus

PROCESSES = 2
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CHUNK = 500


@contextlib.contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """What processes started meanwhile find in their environment; None: not there."""
    before = {name: os.environ.pop(name, None) for name in variables}
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def threads_each(count: int) -> contextlib.AbstractContextManager[None]:
    """How many threads processes may take for linear algebra; 0: as they are installed."""
    return environment(**dict.fromkeys(THREADS, str(count) if count else None))


# --- multiprocessing + librosa, which writes nothing


def _librosa_chunk(paths: list[str]) -> int:
    import librosa

    for path in paths:
        samples, rate = librosa.load(path, sr=44_100)
        power = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=1024, n_mels=128)
        librosa.power_to_db(power, top_db=None)
    return len(paths)


def by_librosa(folder: Path, n: int) -> float:
    paths = [str(path) for path in sorted((folder / "noise").iterdir())[:n]]
    chunks = [paths[i : i + CHUNK] for i in range(0, n, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(_librosa_chunk, [paths[:5]] * 4, chunksize=1)  # warm
        began = time.perf_counter()
        done = sum(pool.imap_unordered(_librosa_chunk, chunks))
        return done / (time.perf_counter() - began)


# --- lhotse


def _lhotse_seconds(paths: list[Path], store: Path) -> float:
    from lhotse import CutSet, MonoCut, Recording
    from lhotse.features.io import NumpyFilesWriter
    from lhotse.features.librosa_fbank import LibrosaFbank, LibrosaFbankConfig

    first = Recording.from_file(paths[0])
    cuts = []
    for i, path in enumerate(paths):
        source = first.sources[0].__class__("file", [0], str(path))
        recording = Recording(f"r{i}", [source], first.sampling_rate, first.num_samples, first.duration)
        cuts.append(MonoCut(f"c{i}", 0, first.duration, 0, recording=recording))
    config = LibrosaFbankConfig(
        sampling_rate=44_100, fft_size=1024, hop_size=1024, window="hann", num_mel_bins=128, fmin=0, fmax=22_050
    )
    began = time.perf_counter()
    executor = ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"))
    CutSet.from_cuts(cuts).compute_and_store_features(
        LibrosaFbank(config), store, num_jobs=PROCESSES, storage_type=NumpyFilesWriter, executor=executor
    )
    executor.shutdown()
    return time.perf_counter() - began


def by_lhotse(folder: Path, n: int, scratch: Path) -> float:
    """The difference of a long and a short run, so that its start-up does not count."""
    paths = sorted((folder / "noise").iterdir())
    few = n // 10
    seconds = [_lhotse_seconds(paths[:count], scratch / f"lhotse-{count}") for count in (few, n)]
    for count in (few, n):
        shutil.rmtree(scratch / f"lhotse-{count}")
    return (n - few) / (seconds[1] - seconds[0])


# --- the same kernel and writer in plain processes


def _units(plan, units, done) -> None:
    from audioclf.extraction import UnitExtractor

    extractor = UnitExtractor(plan)
    for unit in units:
        done.put((time.perf_counter(), extractor(unit).clips))


def without_ray(manifest: Path, output: Path, n: int) -> float:
    from audioclf import malloc
    from audioclf.audio.frontend import get_front_end
    from audioclf.augmentation import Augmentation
    from audioclf.extraction import ExtractPlan
    from audioclf.storage import to_uri
    from audioclf.units import Unit

    spec = get_front_end("logmel44k")
    plan = ExtractPlan(to_uri(str(manifest)), to_uri(str(output)), spec, 5.0, "digest", Augmentation())
    units = [Unit(i, start, min(start + CHUNK, n)) for i, start in enumerate(range(0, n, CHUNK))]
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    processes = [context.Process(target=_units, args=(plan, units[i::PROCESSES], done)) for i in range(PROCESSES)]
    with threads_each(1), environment(GLIBC_TUNABLES=malloc.REUSED):  # as in a job
        for process in processes:
            process.start()
    finished = sorted(done.get() for _ in units)
    for process in processes:
        process.join()
    shutil.rmtree(output)
    return (n - finished[0][1]) / (finished[-1][0] - finished[0][0])


# --- ours


def ours(manifest: Path, output: Path, n: int, fixed: list[float]) -> float:
    run = corpus.extract(manifest, output, "--segment-s", "5", "--limit", str(n), watched=False)
    fixed.append(run.this_run["fixed_s"])
    shutil.rmtree(output)
    return run.clips_per_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40_000, help="for us, with Ray and without")
    parser.add_argument("--rival-clips", type=int, default=10_000, help="for librosa and lhotse: their rate is steady")
    parser.add_argument("--rival-threads", type=int, default=1, help="of each rival process; 0: as installed")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-extract-"))
    try:
        folder = corpus.hard_linked_clips(scratch / "clips", flags.clips)
        manifest = scratch / "manifest.parquet"
        corpus.run_job("manifest", "--input", str(folder), "--output", str(manifest))
        fixed: list[float] = []
        contenders: dict[str, Callable[[], float]] = {
            "audioclf": partial(ours, manifest, scratch / "run", flags.clips, fixed),
            "without Ray": partial(without_ray, manifest, scratch / "plain", flags.clips),
            "librosa": partial(by_librosa, folder, flags.rival_clips),
            "lhotse": partial(by_lhotse, folder, flags.rival_clips, scratch),
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(flags.rounds):
            for name, contender in contenders.items():
                with threads_each(flags.rival_threads):
                    rates[name].append(contender())
                print(f"{name:12s} {rates[name][-1]:7.0f} clips/s", flush=True)
    finally:
        shutil.rmtree(scratch)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"\nmedians of {flags.rounds}; from the job's start to its first finished unit {statistics.median(fixed):.1f} s"
    )
    missed = False
    for name, required, aim in (("librosa", 2.7, 3.5), ("lhotse", 4.5, 5.0), ("without Ray", 0.95, 1.0)):
        ratio = medians["audioclf"] / medians[name]
        missed |= ratio < required
        print(f"{medians[name]:7.0f} clips/s {name}: ours is {ratio:.2f} times that (required {required}, aim {aim})")
    sys.exit(missed)


if __name__ == "__main__":
    main()
