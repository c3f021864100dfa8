"""Items of work → a pool of actors: the chain that extraction, tagging and evaluation share."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import ray.data

from audioclf.errors import AudioclfError
from audioclf.pipelines import cluster
from audioclf.units import Unit

IN_FLIGHT = 4
"""Tasks queued at an actor, so that it never waits for the driver: 2 cost an eighth of the rate."""


class _Actor:
    """Processes items in a worker process."""

    def __init__(self, make: Callable[[Any], Callable[[dict[str, Any]], Any]], plan: Any):
        self._process = make(plan)

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
    make: Callable[[Any], Callable[[dict[str, Any]], Any]], plan: Any, items: list[dict[str, Any]], num_actors: int
) -> Iterator[Any]:
    """Process items on a pool of actors; yields each one's result as it is done, in no order.

    Args:
        make: builds, in the worker, the function that processes one item.
        plan: its argument; small, since it travels to each worker.
        items: of plain values.
        num_actors: worker processes; 0: one a CPU.

    Raises:
        AudioclfError: as raised in a worker.
    """
    cluster.connect()
    size = min(num_actors or max(1, cluster.cpus()), len(items))
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(make, plan),
        compute=ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT),
        num_cpus=1,
    )
    for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
        for outcome in batch["outcome"]:
            result, error = pickle.loads(outcome)
            if error is not None:
                raise error
            yield result


def run_units(
    make: Callable[[Any], Callable[[Unit], dict[str, Any]]], plan: Any, units: Iterable[Unit], num_actors: int
) -> Iterator[dict[str, Any]]:
    """Process and commit units; yields each one's counts. See `map_on_actors`; units committed before an error stay."""
    return map_on_actors(_UnitMaker(make), plan, [asdict(unit) for unit in units], num_actors)


class _UnitMaker:
    """Turns items back into units."""

    def __init__(self, make: Callable[[Any], Callable[[Unit], dict[str, Any]]]):
        self._make = make

    def __call__(self, plan: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
        process = self._make(plan)
        return lambda item: process(Unit(**item))
