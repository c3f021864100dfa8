"""Items of work → a pool of actors: the chain that extraction, tagging and evaluation share."""

import gc
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import ray
import ray.data

from audioclf.errors import AudioclfError, UnitCrashedError
from audioclf.pipelines import cluster
from audioclf.units import Unit

IN_FLIGHT = 4
"""Tasks queued at an actor, so that it never waits for the driver: 2 cost an eighth of the rate."""

CAREFUL_ATTEMPT = 3
"""A unit begun twice and never finished may hold a file that kills its process."""

LAST_ATTEMPT = 12
"""Care did not help: the unit would be tried for ever."""

Process = Callable[[dict[str, Any]], Any]
UnitProcess = Callable[[Unit, bool], dict[str, Any]]


class _Actor:
    """Processes items in a worker process."""

    def __init__(self, make: Callable[[Any], Process], plan: Any):
        self._process = make(plan)
        gc.freeze()  # Ray's own objects, half a million, need not be looked through again and again

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        items = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return {"outcome": [self._outcome(item) for item in items]}

    def _outcome(self, item: dict[str, Any]) -> bytes:
        """The result or the error of one item. Ray Data would pass on an exception's text, not the exception."""
        try:
            return pickle.dumps((self._process({name: np.asarray(value).item() for name, value in item.items()}), None))
        except AudioclfError as error:
            return pickle.dumps((None, error))


def map_on_actors(
    make: Callable[[Any], Process],
    plan: Any,
    items: list[dict[str, Any]],
    num_actors: int,
    memory_mb: int | None = None,
) -> Iterator[Any]:
    """Process items on a pool of actors; yields each one's result as it is done, in no order.

    Args:
        make: builds, in the worker, the function that processes one item.
        plan: its argument; small, since it travels to each worker.
        items: of plain values.
        num_actors: worker processes; 0: one a CPU, as far as the memory goes.
        memory_mb: of a worker.

    Raises:
        AudioclfError: as raised in a worker.
    """
    cluster.connect()
    fit = cluster.cpus() if memory_mb is None else min(cluster.cpus(), cluster.memory_mb() // memory_mb)
    size = min(num_actors or max(1, fit), len(items))
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(make, plan),
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
        memory=None if memory_mb is None else memory_mb * 1_000_000,
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        for outcome in batch["outcome"]:
            result, error = pickle.loads(outcome)
            if error is not None:
                raise error
            yield result


def run_units(
    make: Callable[[Any], UnitProcess], plan: Any, units: Iterable[Unit], num_actors: int, memory_mb: int | None = None
) -> Iterator[dict[str, Any]]:
    """Process and commit units; yields each one's counts. See `map_on_actors`; units committed before an error stay.

    Args:
        make: builds, in the worker, the function that processes a unit, carefully if so told: then an earlier
            attempt at it has killed its process.
        plan, num_actors, memory_mb: as for `map_on_actors`.
        units: to process.
    """
    cluster.connect()
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
    items = [asdict(unit) for unit in units]
    return map_on_actors(_UnitMaker(make, attempts), plan, items, num_actors, memory_mb)


class _Attempts:
    """Counts how often each unit was begun; outlives the workers that die over one."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, index: int) -> int:
        self._begun[index] += 1
        return self._begun[index]


class _UnitMaker:
    """Turns items back into units, and notes each attempt before it is made."""

    def __init__(self, make: Callable[[Any], UnitProcess], attempts: Any):
        self._make, self._attempts = make, attempts

    def __call__(self, plan: Any) -> Process:
        process = self._make(plan)

        def unit_of(item: dict[str, Any]) -> dict[str, Any]:
            unit = Unit(**item)
            attempt: Any = ray.get(self._attempts.begin.remote(unit.index))
            if attempt > LAST_ATTEMPT:
                raise UnitCrashedError(
                    f"{unit.name}: the worker died over it {LAST_ATTEMPT} times; if it ran out of memory, give it more "
                    "(--memory-mb) or fewer workers (--num-actors)"
                )
            return process(unit, attempt >= CAREFUL_ATTEMPT)

        return unit_of
