"""Time and cost of large collections on clusters of 10, 100 and 1,000 nodes, and what limits each first.

A calculation from rates measured on two cores and from stated assumptions, not a measurement of a cluster. Prints the
tables of docs/cluster.md.
"""

import argparse
import math
import time
from dataclasses import dataclass, field, fields, replace
from typing import Any

# Measured on two cores. From local files; by bench_extract.py and bench_tag.py (mn04).
EXTRACT_CLIPS_S, EXTRACT_CLIP_S = 1900 / 2, 5
TAG_CLIPS_S, TAG_CLIP_S = 174.8 / 2, 10
# README.md, tagging on a CPU: fetch, decode, resampling and front end, all that is left to CPUs beside GPUs.
WINDOW_CORE_S = 0.0032 + 0.0028
# pyrubberband's stretch and shift of a 5 s clip, 105 and 152 ms, over the gain of bench_augment.py.
COPY_CORE_S = (0.105 + 0.152) / 2.22
# Two cores that run both one S3 gateway and its eight readers: 163 to 204 MB/s. bench_s3.py: receiving and computing
# add up (0.98 of the rate they would have one after the other).
S3_BYTES_CORE_S = 163e6 / 2
# Of a 5 s clip's picture, as shards store it.
PICTURE_BYTES = 34_900
# Empty units, driver and two workers sharing two busy cores: `--measure-driver`.
DRIVER_UNITS_S = 94
# Start of Ray, then to the first unit.
FIXED_S = 20

# What the jobs do: fetch.py, units.py, pipelines/tag.py.
WHOLE_BYTES, RANGE_BYTES = 64 << 20, 4 << 20
MAX_UNIT_SEGMENTS, MIN_UNIT_SEGMENTS, MIN_UNITS, MAX_UNIT_S = 500, 8, 32, 3600
PICTURES_S = 1310
"""Seconds in a tagging unit at most: 131 windows of mn04, whose pictures fill 64 MiB."""

SIZES = 10, 100, 1000
GPUS = 1, 4, 16


def assumed(value: Any, words: str) -> Any:
    """A field of Assumptions: its default, and what it is."""
    return field(default=value, metadata={"words": words})


@dataclass(frozen=True)
class Assumptions:
    """None of these is measured; each is a flag."""

    vcpus: int = assumed(16, "vCPUs of a CPU node (m7i.4xlarge), each as fast as a core measured")
    nic_gbit_s: float = assumed(6.25, "Gbit/s that a CPU node keeps up (m7i.4xlarge, which bursts to 12.5)")
    get_s: float = assumed(5500, "S3: GET requests a second and prefix")
    put_s: float = assumed(3500, "S3: PUT requests a second and prefix")
    prefixes: int = assumed(1, "S3: prefixes over which a collection is spread")
    gpu_tag_clips_s: float = assumed(
        2000, "ten-second clips that one GPU (L4) tags a second, mn04, given their pictures"
    )
    gpu_train_clips_s: float = assumed(600, "ten-second clips that one GPU (L4) trains on a second, mn04")
    tag_gpus: int = assumed(4, "GPU nodes beside the CPU nodes of tag --use-gpu")
    epochs: int = assumed(10, "passes over AudioSet in training")
    node_start_s: float = assumed(300, "from asking for a node to its first task, set-up included")
    idle_s: float = assumed(300, "that a node stays when it has nothing to do (idle_timeout_minutes of cluster.yaml)")
    cpu_node_usd_h: float = assumed(0.35, "price of a CPU node (m7i.4xlarge, spot)")
    gpu_node_usd_h: float = assumed(0.80, "price of a GPU node (g6.xlarge, on demand)")
    head_usd_h: float = assumed(0.20, "price of the head (m7i.xlarge, on demand)")
    get_usd: float = assumed(0.4e-6, "price of a GET")
    put_usd: float = assumed(5e-6, "price of a PUT")


@dataclass(frozen=True)
class Collection:
    name: str
    files: int
    file_s: float
    total_bytes: float

    @property
    def audio_s(self) -> float:
        return self.files * self.file_s

    @property
    def file_bytes(self) -> float:
        return self.total_bytes / self.files


ESC50 = Collection("ESC-50: 2,000 clips of 5 s", 2_000, 5, 2_000 * 441_044)
AUDIOSET = Collection("AudioSet: 2 M clips of 10 s, 1.85 TB", 2_000_000, 10, 1.85e12)
# Hours at 48 kHz, 16 bits, one channel.
ARCHIVE = Collection("archive: 1 PB in files of an hour", round(1e15 / 345.6e6), 3600, 1e15)


@dataclass(frozen=True)
class Work:
    """A job on a collection, in what it takes of each resource.

    Attributes:
        core_s: of computing, in all.
        unit_s: seconds of audio in a unit.
        puts: PUTs a unit.
        out_bytes: written, in all.
        gpu_clips: ten-second clips for GPUs; 0: it uses none.
    """

    collection: Collection
    job: str
    core_s: float
    unit_s: float
    puts: int
    out_bytes: float = 0
    gpu_clips: float = 0

    @property
    def units(self) -> int:
        return math.ceil(self.collection.audio_s / self.unit_s)

    @property
    def gets(self) -> float:
        """A small file by one request; of a large one the header, once a unit, and ranges."""
        if self.collection.file_bytes <= WHOLE_BYTES:
            return self.collection.files
        return self.units + self.collection.total_bytes / RANGE_BYTES


def extraction(collection: Collection, copies: int = 0) -> Work:
    """Of clips that are one segment each."""
    segments = min(MAX_UNIT_SEGMENTS, max(MIN_UNIT_SEGMENTS, collection.files // MIN_UNITS))
    core_s = 1 / EXTRACT_CLIPS_S + copies * COPY_CORE_S  # a 5 s clip
    return Work(
        collection,
        "extract --augment stretch-pitch" if copies else "extract",
        collection.audio_s / EXTRACT_CLIP_S * core_s,
        min(MAX_UNIT_S, segments * collection.file_s),
        1,
        collection.audio_s / EXTRACT_CLIP_S * PICTURE_BYTES * (1 + copies),
    )


def tagging(collection: Collection, unit_s: float = 600, use_gpu: bool = False) -> Work:
    clips = collection.audio_s / TAG_CLIP_S
    flags = f" --unit-s {unit_s:g}" * (unit_s != 600) + " --use-gpu" * use_gpu
    core_s = WINDOW_CORE_S if use_gpu else 1 / TAG_CLIPS_S
    return Work(collection, f"tag{flags}", clips * core_s, unit_s, 2, gpu_clips=clips if use_gpu else 0)


def limits(work: Work, nodes: int, given: Assumptions) -> dict[str, float]:
    """Seconds that each resource alone would take for the work."""
    cores = nodes * given.vcpus
    busy = min(cores, work.units)
    nic_bytes_s = min(nodes, work.units) * given.nic_gbit_s * 1e9 / 8
    seconds = {
        "CPU" if busy == cores else "units": (work.core_s + work.collection.total_bytes / S3_BYTES_CORE_S) / busy,
        "NIC": max(work.collection.total_bytes, work.out_bytes) / nic_bytes_s,
        "S3 requests": max(work.gets / given.get_s, work.units * work.puts / given.put_s) / given.prefixes,
        "driver": work.units / DRIVER_UNITS_S,
    }
    if work.gpu_clips:
        seconds["GPU"] = work.gpu_clips / given.gpu_tag_clips_s / given.tag_gpus
    return seconds


@dataclass(frozen=True)
class Estimate:
    total_s: float
    usd: float
    first: str
    """The limit that comes first, behind the start where that takes longer."""

    def __str__(self) -> str:
        return f"{duration(self.total_s)}, {money(self.usd)}, {self.first}"


def estimate(work: Work, nodes: int, given: Assumptions) -> Estimate:
    """Time, cost, and what sets the time."""
    seconds = limits(work, nodes, given)
    first = max(seconds, key=lambda name: seconds[name])
    start_s = given.node_start_s + FIXED_S
    total_s = start_s + seconds[first]
    node_usd_h = nodes * given.cpu_node_usd_h + (given.tag_gpus * given.gpu_node_usd_h if work.gpu_clips else 0)
    requests_usd = work.gets * given.get_usd + work.units * work.puts * given.put_usd
    usd = (node_usd_h * (total_s + given.idle_s) + given.head_usd_h * total_s) / 3600 + requests_usd
    return Estimate(total_s, usd, first if seconds[first] > start_s else f"start, then {first}")


def training(gpus: int, given: Assumptions) -> Estimate:
    """Of mn04 on AudioSet's shards, streamed; their reading is far below what a node's network carries."""
    work_s = AUDIOSET.files * given.epochs / (gpus * given.gpu_train_clips_s)
    total_s = given.node_start_s + FIXED_S + work_s
    usd = (gpus * given.gpu_node_usd_h * (total_s + given.idle_s) + given.head_usd_h * total_s) / 3600
    return Estimate(total_s, usd, "GPU")


def duration(seconds: float) -> str:
    """As 42 s, 7 min, 3.1 h, 12 days."""
    for unit, length, up_to in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < up_to:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def money(usd: float) -> str:
    return f"${usd:,.2f}" if usd < 10 else f"${usd:,.0f}"


def tables(given: Assumptions) -> str:
    """The tables of docs/cluster.md."""
    works = [
        extraction(ESC50),
        extraction(AUDIOSET),
        extraction(AUDIOSET, copies=1),
        tagging(AUDIOSET),
        tagging(ARCHIVE),
        tagging(ARCHIVE, PICTURES_S),
        tagging(ARCHIVE, PICTURES_S, use_gpu=True),
    ]
    many = replace(given, prefixes=100 * given.prefixes)
    rows = [
        ["collection", "job", *(f"{nodes:,} nodes" for nodes in SIZES)],
        ["---"] * (2 + len(SIZES)),
        *([work.collection.name, f"`{work.job}`", *(str(estimate(work, n, given)) for n in SIZES)] for work in works),
        [
            f"{AUDIOSET.name}, in {many.prefixes:,} prefixes",
            f"`{works[1].job}`",
            *(str(estimate(works[1], n, many)) for n in SIZES),
        ],
        [],
        ["AudioSet, `train` of mn04", *(f"{gpus} GPU nodes" if gpus > 1 else "1 GPU node" for gpus in GPUS)],
        ["---"] * (1 + len(GPUS)),
        [f"{given.epochs} epochs", *(str(training(gpus, given)) for gpus in GPUS)],
        [],
        ["assumed, not measured", ""],
        ["---"] * 2,
        *(
            [one.metadata["words"], f"{getattr(given, one.name):g}"]
            for one in fields(given)
            if one.name not in ("get_usd", "put_usd")
        ),
        ["price of a million GETs, of a million PUTs", f"{given.get_usd * 1e6:g}, {given.put_usd * 1e6:g}"],
    ]
    return "\n".join(f"| {' | '.join(row)} |" if row else "" for row in rows)


def _same(plan: None):
    return lambda item: item


def measure_driver() -> None:
    """Print the units a second that the driver gives out and takes back, without the first 2,000."""
    from audioclf.pipelines.run_units import Stage, map_on_actors

    seconds = {}
    for n in (100, 2000, 6000):
        began = time.monotonic()
        for _ in map_on_actors([Stage(_same, None)], range(n)):
            pass
        seconds[n] = time.monotonic() - began
    print(f"{4000 / (seconds[6000] - seconds[2000]):.0f} units a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for one in fields(Assumptions):
        parser.add_argument(
            f"--{one.name.replace('_', '-')}",
            type=type(one.default),
            default=one.default,
            help=f"{one.metadata['words']} (default: %(default)s)",
        )
    parser.add_argument("--measure-driver", action="store_true", help="measure the driver's rate here instead")
    flags = vars(parser.parse_args())
    if flags.pop("measure_driver"):
        measure_driver()
    else:
        print(tables(Assumptions(**flags)))


if __name__ == "__main__":
    main()
