"""Training throughput on one core, segments a second: rows in memory, and rows streamed through less memory than they
take, against a plain PyTorch loop over tensors in memory, with the same network, optimizer and batches.

Epochs of the three in turn; exits 1 if a required ratio of the medians is missed.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
if hasattr(os, "sched_setaffinity"):  # what reads ahead gets no core of its own
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from audioclf import rundir, storage, training
from audioclf.audio.frontend import get_front_end
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.row_index import RowIndex, read_index
from audioclf.shard_writer import ShardWriter
from audioclf.training_rows import MemoryRows, Rows, StreamedRows

ROUNDS = 5
FILES, FILE_SEGMENTS, GROUP_SEGMENTS, FRAMES = 12, 128, 32, 216  # 5 s of logmel44k: 85 MB in all
WINDOWS = 8  # that an epoch is streamed in
SPEC = get_front_end("logmel44k")
VOCABULARY = Vocabulary(tuple("abcdefghij"), multi_label=False)
HOW = Training(model="sbcnn", epochs=100, batch_size=32, schedule="constant", l2=0.0, dropout=0.5)
REQUIRED = {"in memory": 0.9, "streamed": 0.8}  # of the plain loop's rate


def write_shards(run: Path) -> None:
    """Noise: it hardly compresses, so that there is more to read than of sound."""
    rng = np.random.default_rng(0)
    for file in range(FILES):
        uri = storage.to_uri(str(run / rundir.DATA / f"unit-{file:07d}.parquet"))
        buffer_bytes = GROUP_SEGMENTS * 2 * SPEC.n_features * FRAMES
        with (
            storage.create(uri) as out,
            ShardWriter(out, SPEC, (FRAMES - 1) * SPEC.hop_length, "", buffer_bytes) as writer,
        ):
            for i in range(file * FILE_SEGMENTS, (file + 1) * FILE_SEGMENTS):
                row = {
                    "clip_id": f"{i:06d}", "uri": "", "segment_index": 0, "start_s": 0.0, "copy_index": 0,
                    "transform_set": "none", "transform_params": "{}", "valid_frames": FRAMES,
                    "labels": [VOCABULARY.names[i % len(VOCABULARY)]], "fold": None, "source_id": str(i), "flags": [],
                    "content_digest": "",
                }  # fmt: skip
                writer.add(row, rng.normal(-40, 10, (SPEC.n_features, FRAMES)).astype(np.float32))
            writer.finish({})


def plain_epochs(index: RowIndex, network: Network) -> Callable[[int], object]:
    """What one writes without a library: float16 pictures and classes in memory, a random patch of each segment."""
    examples = index.load()
    pictures = torch.from_numpy(examples.pictures)
    classes = torch.from_numpy(VOCABULARY.targets(examples.labels)).argmax(1)
    frames = network.patch_frames or FRAMES
    optimizer = torch.optim.Adam(network.parameters(), lr=HOW.learning_rate)

    def epoch(_: int) -> float:
        network.train()
        loss_sum = 0.0
        for batch in torch.randperm(len(pictures)).split(HOW.batch_size):
            starts = torch.randint(0, FRAMES - frames + 1, (len(batch),)).tolist()
            patches = [pictures[row, :, at : at + frames] for row, at in zip(batch.tolist(), starts, strict=True)]
            loss = F.cross_entropy(network(torch.stack(patches).float()), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.item()
        return loss_sum

    return epoch


def epochs_on(rows: Rows) -> Callable[[int], object]:
    network = training.build_network(HOW, rows, VOCABULARY, 0, SPEC)
    return training.Trainer(rows, VOCABULARY, HOW, 0, network, SPEC, np.ones(len(rows))).epoch


def streamed(index: RowIndex) -> StreamedRows:
    """Through windows of an eighth of the set."""
    window_bytes = len(index) // WINDOWS * index.picture_bytes
    memory_bytes = index.reading_bytes + 2 * window_bytes
    set_bytes = len(index) * index.picture_bytes
    print(f"{len(index)} segments take {set_bytes / 1e6:.0f} MB; streamed within {memory_bytes / 1e6:.0f} MB")
    assert memory_bytes < set_bytes
    return StreamedRows(index, memory_bytes)


def rates(epochs: dict[str, Callable[[int], object]], n_segments: int) -> dict[str, float]:
    """The median rate of an epoch, segments a second."""
    found: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(ROUNDS + 1):  # interleaved: the machine's speed drifts; the first warms up
        for name, epoch in epochs.items():
            began = time.perf_counter()
            epoch(number)
            found[name].append(n_segments / (time.perf_counter() - began))
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="bench-training-") as folder:
        write_shards(Path(folder))
        index = read_index([folder], copies=True)
        in_memory = MemoryRows(index.load())
        measured = rates(
            {
                "plain loop": plain_epochs(index, training.build_network(HOW, in_memory, VOCABULARY, 0, SPEC)),
                "in memory": epochs_on(in_memory),
                "streamed": epochs_on(streamed(index)),
            },
            len(index),
        )
    for name, rate in measured.items():
        print(f"{rate:7.0f} segments/s  {name}")
    missed = []
    for name, required in REQUIRED.items():
        ratio = measured[name] / measured["plain loop"]
        print(f"{name} / plain loop: {ratio:.3f} (required {required:.2f})")
        missed += [name] * (ratio < required)
    print(f"missed: {', '.join(missed)}" if missed else "every required bound is kept")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
