"""One network's training: what each worker of Ray Train does."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import ray
import ray.train
import ray.train.torch
import torch

from audioclf import checkpoint, event_files, machine, memory, policy, rundir, storage, training
from audioclf.audio.frontend import FrontEnd
from audioclf.checkpoint import Checkpoint
from audioclf.config import Training
from audioclf.labels import Vocabulary
from audioclf.models import Network
from audioclf.pipelines import train_checks
from audioclf.policy import Policy
from audioclf.row_index import RowIndex, read_index
from audioclf.rundir import RunDirectory
from audioclf.training import Trainer
from audioclf.training_rows import MemoryRows, Rows, Share, StreamedRows

STATE_FILE = "state.pt"
"""In each of Ray Train's checkpoints."""


@dataclass(frozen=True)
class TrainJob:
    """One network to train; travels to the workers."""

    name: str
    shard_uris: tuple[str, ...]
    vocabulary: Vocabulary
    output_uri: str
    training: Training
    test_fold: int | None
    seed: int
    num_workers: int
    use_gpu: bool
    memory_mb: int | None
    """For the training rows of each worker; None: by the memory of its machine."""
    policy: Policy | None
    """Which copies are taken, and how often; None: originals and all copies alike."""
    min_workers: int | None = None
    """To train with where there is no room for all; None: wait for all."""


def train_loop(config: dict[str, Any]) -> None:
    """Train a job to its end, or this worker's share of it, from the last epoch that was saved on.

    Args:
        config: `job`, a TrainJob; `board`, the Board that it tells how it gets on; `at_once`, trainings side by side.
    """
    job: TrainJob
    job, board, at_once = config["job"], config["board"], config["at_once"]
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    index = read_index(job.shard_uris, copies=True, exclude_fold=job.test_fold)
    taken, weights = policy.training_rows(job.policy, index.columns, [job.test_fold])
    index = index.take(taken)
    state, history = _saved()
    here = _workers_here(job, job.num_workers if job.min_workers else context.get_local_world_size(), at_once)
    # Where there is no worker apart, Ray Train would give a GPU that was not asked for.
    device = ray.train.torch.get_device() if job.use_gpu else torch.device("cpu")
    memory_bytes = _least(_memory_bytes(job, here), share, device)
    if state and job.memory_mb is None:  # as before, for the same order of rows, unless that were too much here
        memory_bytes = min(memory_bytes, state["memory_bytes"])
    rows, words = _rows(index, memory_bytes)
    if share.rank == 0:
        workers = f"{share.world_size} of {job.num_workers} workers; " if job.min_workers else ""
        board.say.remote(f"{job.name}: {workers}{words}")
    start, front_end = train_checks.beginning(job.training, rows.front_end)
    network = training.build_network(job.training, rows, job.vocabulary, job.seed, front_end, start, weights)
    network = network.to(device)
    if job.training.amp and not training.has_bfloat16(device) and share.rank == 0:
        board.say.remote(f"{job.name}: float32 in spite of --amp: this CPU has no bfloat16 arithmetic")
    wrap = training.alone if share.world_size == 1 else ray.train.torch.prepare_model
    trainer = Trainer(rows, job.vocabulary, job.training, job.seed, network, front_end, weights, share, wrap)
    if state:
        trainer.restore(state["trainer"])
    for epoch in range(len(history), job.training.epochs):
        loss_sum, hits = _sum_over_workers(trainer.epoch(epoch), share, device)
        n = trainer.n_segments
        history.append({"epoch": epoch + 1, "loss": loss_sum / n, "train_accuracy": hits / n})
        with tempfile.TemporaryDirectory() as folder:
            saved = None
            if share.rank == 0:
                board.post.remote(job.name, job.training.epochs, history[-1])
                state = {"trainer": trainer.state(), "memory_bytes": memory_bytes, "history": history}
                torch.save(state, Path(folder, STATE_FILE))
                saved = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(history[-1], checkpoint=saved)
    if share.rank == 0:
        _save(job, trainer.trained(), start, front_end, rows, history)


def _workers_here(job: TrainJob, of_one: int, at_once: int) -> int:
    """Workers that may share this machine: what each training may have here, as far as there is room for them."""
    node = ray.get_runtime_context().get_node_id()
    (resources,) = (one["Resources"] for one in ray.nodes() if one["NodeID"] == node)
    return min(max(1, of_one) * at_once, max(1, int(resources.get("GPU" if job.use_gpu else "CPU", 1))))


def _memory_bytes(job: TrainJob, workers: int) -> int:
    """That training rows may take in each of so many workers of this machine."""
    if job.memory_mb is not None:
        return job.memory_mb * 1_000_000
    return int(machine.available(machine.physical_bytes(), machine.cgroup_memory(), workers) * memory.SHARE)


def _least(value: int, share: Share, device: torch.device) -> int:
    """Of all workers: they have to keep their rows alike, whatever their machines."""
    if share.world_size == 1:
        return value
    total = torch.tensor(value, device=device)
    torch.distributed.all_reduce(total, torch.distributed.ReduceOp.MIN)
    return int(total)


def _rows(index: RowIndex, memory_bytes: int) -> tuple[Rows, str]:
    """The training rows, in memory if they fit; and which it is, in words."""
    choice = memory.choose(len(index), index.shape, memory_bytes)
    return MemoryRows(index.load()) if choice.in_memory else StreamedRows(index, memory_bytes), choice.words


def _saved() -> tuple[dict[str, Any] | None, list[dict[str, float]]]:
    """The last saved epoch's state, if there is one, and the metrics of the epochs behind it."""
    saved = ray.train.get_checkpoint()
    if saved is None:
        return None, []
    with saved.as_directory() as folder:
        # On the CPU first: a training may go on where there is no GPU, or another one.
        state = torch.load(Path(folder, STATE_FILE), weights_only=True, map_location="cpu")
    return state, state["history"]


def _sum_over_workers(values: tuple[float, float], share: Share, device: torch.device) -> tuple[float, ...]:
    if share.world_size == 1:
        return values
    total = torch.tensor(values, device=device, dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return tuple(total.tolist())


def _save(
    job: TrainJob,
    network: Network,
    start: Checkpoint | None,
    front_end: FrontEnd,
    rows: Rows,
    history: list[dict[str, float]],
) -> None:
    """The checkpoint, metrics.json and events of a finished training."""
    segment_s = rows.front_end.duration_s(rows.shape[1])
    how = {
        **asdict(job.training),
        "seed": job.seed,
        "test_fold": job.test_fold,
        "manifests": rundir.manifests(job.shard_uris),
        "clips": len(set(rows.columns["clip_id"])),
        "before": start.lineage() if start else [],
        "policy": job.policy.to_dict() if job.policy else None,
    }
    done = Checkpoint(network, cast(str, job.training.model), front_end, job.vocabulary, segment_s, how, history[-1])
    done.save(storage.join(job.output_uri, checkpoint.FOLDER))
    event_files.write(job.output_uri, history)
    RunDirectory(job.output_uri).write_json(rundir.METRICS, {"epochs": history})
