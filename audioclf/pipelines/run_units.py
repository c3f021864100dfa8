"""Items of work → a pool of actors: the chain that extraction, tagging and evaluation share."""

import functools
import gc
import pickle
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.data

from audioclf.errors import AudioclfError, ConfigError, UnitCrashedError
from audioclf.pipelines import cluster
from audioclf.units import Attempt, Unit

IN_FLIGHT = 4
"""Tasks queued at an actor, so that it never waits for the driver: 2 cost an eighth of the rate."""

CAREFUL_ATTEMPT = 3
"""A unit begun twice and never finished may hold a file that kills its process."""

LAST_ATTEMPT = 12
"""Care did not help: the unit would be tried for ever."""

Process = Callable[[Any], Any]


@dataclass(frozen=True)
class Stage:
    """A pool of worker processes that do one step for every item.

    Attributes:
        make: builds, in the worker, the function that processes one item.
        plan: its argument; small, since it travels to each worker.
        num_actors: worker processes; 0: one a CPU, as far as the memory goes.
        memory_mb: of a worker.
        num_gpus: of a worker.
    """

    make: Callable[[Any], Process]
    plan: Any
    num_actors: int = 0
    memory_mb: int | None = None
    num_gpus: float = 0

    @property
    def num_cpus(self) -> int:
        """Of a worker: 0 of one that computes on a GPU, or those of an earlier stage could leave it none."""
        return 0 if self.num_gpus else 1

    def takes(self) -> str:
        """What a worker takes of the cluster, in words."""
        parts = ((self.num_cpus, "CPU"), (self.num_gpus, "GPU"), (self.memory_mb or 0, "MB"))
        return " and ".join(f"{amount:,g} {noun}" for amount, noun in parts if amount)

    def size(self, n_items: int) -> int:
        """Workers that this stage is to have.

        Raises:
            ConfigError: there is not memory enough for one, and no node will be started that has: Ray would wait.
        """
        fit = cluster.cpus()
        if self.memory_mb is not None:
            fit = min(fit, cluster.memory_mb() // self.memory_mb)
            if not fit and not cluster.may_grow():
                raise ConfigError(
                    f"--memory-mb {self.memory_mb}: Ray has {cluster.memory_mb():,} MB on this machine for all workers "
                    "together; give less, or free some"
                )
        return min(self.num_actors or max(1, fit), n_items)


def _raising(error: AudioclfError) -> Process:
    def process(_: Any) -> Any:
        raise error

    return process


class _Actor:
    """Processes items in a worker process; those that an earlier stage failed over are passed on."""

    def __init__(self, make: Callable[[Any], Process], plan: Any):
        try:
            self._process = make(plan)
        except AudioclfError as error:  # of a constructor, Ray would pass on the text alone
            self._process = _raising(error)
        gc.freeze()  # Ray's own objects, half a million, need not be looked through again and again

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"outcome": [self._outcome(pickled) for pickled in batch["outcome"]]}

    def _outcome(self, pickled: bytes) -> bytes:
        """The result or the error of one item. Ray Data would pass on an exception's text, not the exception."""
        item, error = pickle.loads(pickled)
        if error is not None:
            return pickled
        try:
            return pickle.dumps((self._process(item), None))
        except AudioclfError as error:
            return pickle.dumps((None, error))


def map_on_actors(stages: Sequence[Stage], items: Sequence[Any]) -> Iterator[Any]:
    """Process items on pools of actors, one after the other; yields each one's result as it is done, in no order.

    Args:
        stages: each takes what the one before gave.
        items: that can be pickled.

    Raises:
        AudioclfError: as raised in a worker.
    """
    cluster.connect()
    rows = [{"outcome": pickle.dumps((item, None))} for item in items]
    done = ray.data.from_items(rows, override_num_blocks=len(rows))
    for stage in stages:
        done = done.map_batches(
            _Actor,
            fn_constructor_args=(stage.make, stage.plan),
            batch_size=1,  # of GPUs Ray Data asks for a number; a block is one item in any case
            compute=ray.data.ActorPoolStrategy(size=stage.size(len(items)), max_tasks_in_flight_per_actor=IN_FLIGHT),
            num_cpus=stage.num_cpus,
            num_gpus=stage.num_gpus or None,
            memory=None if stage.memory_mb is None else stage.memory_mb * 1_000_000,
        )
    with cluster.waiting_told(", ".join(stage.takes() for stage in stages)) as begun:
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            begun()
            for outcome in batch["outcome"]:
                result, error = pickle.loads(outcome)
                if error is not None:
                    raise error
                yield result


def run_units(stages: Sequence[Stage], units: Sequence[Unit]) -> Iterator[dict[str, Any]]:
    """Process and commit units; yields each one's counts. Units committed before an error stay.

    Args:
        stages: the first one takes an Attempt at a unit, the last one commits.
        units: to process.
    """
    cluster.connect()
    first = replace(stages[0], make=_UnitMaker(stages[0].make, _attempts(), uuid.uuid4().hex))
    return map_on_actors([first, *stages[1:]], units)


class _Attempts:
    """Counts how often each unit of each run was begun; outlives the workers that die over one."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[str, int]] = Counter()

    def begin(self, run: str, index: int) -> int:
        self._begun[run, index] += 1
        return self._begun[run, index]


@functools.cache
def _attempts() -> Any:
    """One actor for all runs of this process: starting it takes seconds."""
    return ray.remote(_Attempts).options(**cluster.beside_driver()).remote()


class _UnitMaker:
    """Notes each attempt at a unit of a run before it is made."""

    def __init__(self, make: Callable[[Any], Process], attempts: Any, run: str):
        self._make, self._attempts, self._run = make, attempts, run

    def __call__(self, plan: Any) -> Process:
        process = self._make(plan)

        def unit_of(unit: Unit) -> Any:
            attempt: Any = ray.get(self._attempts.begin.remote(self._run, unit.index))
            if attempt > LAST_ATTEMPT:
                raise UnitCrashedError(
                    f"{unit.name}: the worker died over it {LAST_ATTEMPT} times; if it ran out of memory, give it "
                    "more, by fewer workers (--num-actors) or a machine that has more"
                )
            return process(Attempt(unit, careful=attempt >= CAREFUL_ATTEMPT))

        return unit_of
