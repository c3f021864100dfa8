"""Units of work → actors that commit them: the chain that extraction and tagging share."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import ray.data

from audioclf.pipelines import cluster
from audioclf.units import Unit

IN_FLIGHT = 4
"""Tasks queued at an actor, so that it never waits for the driver: 2 cost an eighth of the rate."""


class _UnitActor:
    """Turns a row of the plan into a row of counts, in a worker process."""

    def __init__(self, make: Callable[[Any], Callable[[Unit], dict[str, Any]]], plan: Any):
        self._process = make(plan)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        units = [
            Unit(*(int(batch[name][i]) for name in ("index", "row_start", "row_stop")))
            for i in range(len(batch["index"]))
        ]
        return {"unit": [unit.index for unit in units], "counts": [self._process(unit) for unit in units]}


def actor_pool(num_actors: int, n_tasks: int) -> ray.data.ActorPoolStrategy:
    """Actors for so many tasks: num_actors, or one a CPU where it is 0."""
    size = min(num_actors or max(1, cluster.cpus()), n_tasks)
    return ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=IN_FLIGHT)


def run_units(
    make: Callable[[Any], Callable[[Unit], dict[str, Any]]], plan: Any, units: Iterable[Unit], num_actors: int
) -> Iterator[dict[str, Any]]:
    """Process units on a pool of actors; yields each unit's counts as it is committed, in no order.

    Args:
        make: builds, in the worker, the function that processes and commits one unit.
        plan: its argument; small, since it travels to each worker.
        units: what to do.
        num_actors: worker processes; 0: one a CPU.

    Raises:
        AudioclfError: as raised in a worker; units committed before stay.
    """
    cluster.connect()
    rows = [{"index": unit.index, "row_start": unit.row_start, "row_stop": unit.row_stop} for unit in units]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _UnitActor,
        fn_constructor_args=(make, plan),
        compute=actor_pool(num_actors, len(rows)),
        num_cpus=1,
    )
    try:
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            yield from batch["counts"]
    except Exception as error:
        raise cluster.own_error(error) from error
