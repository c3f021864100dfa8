"""Tagging an archive with mn04, jobs/tag.py against plain PyTorch processes, in one run, on two cores.

The archive: ten-second clips of real sound, 16-bit mono at 44.1 kHz, hard links of a few files. Ours is the whole job,
from the listing to the ledger. The rival is two processes of one thread that take one clip at a time (see
published_tagger.py) and write nothing. Steady rates: start-up is shown apart. Rounds are interleaved, since the
machine's speed drifts. Exits 1 if the required ratio is missed or the two disagree about what is heard.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from bench_extract import threads_each

PROCESSES = 2
WARM_CLIPS = 20
CLIP_S = 10
SOURCES = 20
"""Different sounds in the archive."""

TOP_K = 3
REQUIRED, AIM = 2.5, 3.0
AGREEMENT = 1e-3
"""Of probabilities."""

SHARED = Path(os.environ.get("AUDIOCLF_SHARED", corpus.ROOT.parent / "shared"))


def archive(folder: Path, audio: Path, n: int) -> list[Path]:
    """n clips in a folder: the sounds of `audio` from end to end of its sorted list, each repeated until it is full."""
    found = sorted(path for path in audio.rglob("*") if path.suffix in (".ogg", ".wav"))
    if len(found) < SOURCES:
        sys.exit(f"--audio {audio}: {len(found)} .ogg and .wav files; {SOURCES} or more are needed")
    folder.mkdir(parents=True)
    clips = [folder / f"{i:07d}.wav" for i in range(n)]
    for clip, source in zip(clips, found[:: len(found) // SOURCES][:SOURCES], strict=False):
        samples, rate = soundfile.read(source, dtype="float32")
        if rate != corpus.RATE or samples.ndim > 1:
            sys.exit(f"--audio: {source}: {rate} Hz; all must be mono at {corpus.RATE} Hz")
        soundfile.write(clip, np.resize(samples, corpus.RATE * CLIP_S), rate, subtype="PCM_16")
    for i in range(SOURCES, n):
        os.link(clips[i % SOURCES], clips[i])
    return clips


# --- plain PyTorch, one clip at a time


def _one_by_one(weights: str, clips: list[Path], share: int, taken: Any, start: Any, done: Any) -> None:
    import torch

    torch.set_num_threads(1)
    from published_tagger import PublishedTagger

    tagger = PublishedTagger(weights)
    for i in range(WARM_CLIPS):
        tagger.top(str(clips[(share + i) % len(clips)]), TOP_K)
    start.wait()
    began = time.perf_counter()
    tags = []
    while True:
        with taken.get_lock():
            i, taken.value = taken.value, taken.value + 1
        if i >= len(clips):
            break
        tags.append(tagger.top(str(clips[i]), TOP_K))
    done.put((began, time.perf_counter(), len(tags)))


def by_plain_processes(weights: str, clips: list[Path]) -> float:
    """Clips a second, from when all processes are warm."""
    context = multiprocessing.get_context("spawn")
    taken, start, done = context.Value("q", 0), context.Barrier(PROCESSES), context.Queue()
    shares = [(weights, clips, i * len(clips) // PROCESSES, taken, start, done) for i in range(PROCESSES)]
    processes = [context.Process(target=_one_by_one, args=share) for share in shares]
    with threads_each(1):
        for process in processes:
            process.start()
    began, ended, counts = zip(*(done.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return sum(counts) / (max(ended) - min(began))


# --- ours


@dataclass(frozen=True)
class Tagging:
    """A finished run of jobs/tag.py.

    Attributes:
        clips_per_s: from when every worker has had time for its first unit.
        this_run: of its summary, whose own rate counts from the first unit on, and so counts the other workers' first
            units too.
        tags: all rows.
    """

    clips_per_s: float
    this_run: dict[str, Any]
    tags: pa.Table


def ours(weights: str, folder: Path, output: Path, n: int) -> Tagging:
    flags = ("--window-s", str(CLIP_S), "--top-k", str(TOP_K), "--num-actors", str(PROCESSES))
    corpus.run_job("tag", "--input", str(folder), "--checkpoint", weights, "--output", str(output), *flags)
    (run,) = (output / "runs").iterdir()
    this_run = json.loads((run / "summary.json").read_text())["this_run"]
    units = sorted((path.stat().st_mtime, pq.read_table(path)) for path in (run / "data").glob("*.parquet"))
    shutil.rmtree(output)
    tags = pa.concat_tables([table for _, table in units])
    if len(tags) != n * TOP_K:
        sys.exit(f"jobs/tag.py: {len(tags)} tags of {n} clips, {TOP_K} of each expected")
    if len(units) <= 2 * PROCESSES:  # too few to leave any out
        return Tagging(this_run["clips_per_s"], this_run, tags)
    n_steady = sum(len(table) for _, table in units[PROCESSES:]) // TOP_K
    return Tagging(n_steady / (units[-1][0] - units[PROCESSES - 1][0]), this_run, tags)


def difference(weights: str, clips: list[Path], tags: pa.Table) -> float:
    """The largest, over all tags: from the rival's probability of that class, and from the rival's of that rank."""
    from published_tagger import PublishedTagger

    from audioclf.models import pretrained

    tagger, classes = PublishedTagger(weights), pretrained.vocabulary().names
    theirs = np.stack([tagger.probabilities(str(clip)) for clip in clips[:SOURCES]])
    sounds = np.array([int(Path(uri).stem) % SOURCES for uri in tags["uri"].to_pylist()])
    of_class = theirs[sounds, [classes.index(tag) for tag in tags["tag"].to_pylist()]]
    of_rank = -np.sort(-theirs)[sounds, tags["rank"].to_numpy() - 1]
    ours = tags["probability"].to_numpy()
    return float(np.maximum(np.abs(ours - of_class), np.abs(ours - of_rank)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=2_000, help="for us")
    parser.add_argument("--rival-clips", type=int, default=400, help="its rate is steady")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", type=Path, default=SHARED / "weights" / "mn04_as_mAP_432.pt", help="of mn04")
    parser.add_argument("--audio", type=Path, default=SHARED / "data" / "esc10" / "audio", help="sounds to repeat")
    flags = parser.parse_args()
    weights = f"mn04:{flags.weights}"
    scratch = Path(tempfile.mkdtemp(prefix="bench-tag-"))
    runs: list[Tagging] = []
    rivals: list[float] = []
    try:
        clips = archive(scratch / "clips", flags.audio, flags.clips)
        for _ in range(flags.rounds):
            runs.append(ours(weights, scratch / "clips", scratch / "tags", flags.clips))
            rivals.append(by_plain_processes(weights, clips[: flags.rival_clips]))
            own = runs[-1].this_run["clips_per_s"]
            print(
                f"audioclf {runs[-1].clips_per_s:6.1f} clips/s ({own} by its own count)  plain {rivals[-1]:6.1f}",
                flush=True,
            )
        apart = max(difference(weights, clips, run.tags) for run in runs)
    finally:
        shutil.rmtree(scratch)
    sys.exit(report(runs, rivals, apart))


def report(runs: list[Tagging], rivals: list[float], apart: float) -> bool:
    """Print the medians; gives whether anything required was missed."""
    mine, theirs = statistics.median(run.clips_per_s for run in runs), statistics.median(rivals)
    fixed = statistics.median(run.this_run["fixed_s"] for run in runs)
    print(f"\nmedians of {len(runs)}; from the job's start to its first finished unit {fixed:.1f} s")
    print(
        f"{mine:.1f} clips/s, {mine * CLIP_S:,.0f} audio-hours an hour: {mine / theirs:.2f} times plain PyTorch's "
        f"{theirs:.1f} clips/s, {theirs * CLIP_S:,.0f} audio-hours an hour (required {REQUIRED}, aim {AIM})"
    )
    seconds = Counter[str]()
    for run in runs:
        seconds.update(run.this_run.get("seconds", {}))
    if total := sum(seconds.values()):
        shares = ", ".join(f"{name} {value / total:.0%}" for name, value in seconds.items())
        print(f"the workers' time: {shares}")
    print(f"largest difference of a probability {apart:.1e} (allowed {AGREEMENT:.0e})")
    return mine / theirs < REQUIRED or apart > AGREEMENT


if __name__ == "__main__":
    main()
