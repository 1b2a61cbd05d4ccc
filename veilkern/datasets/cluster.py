"""The Ray part of a job: stateful workers that take one unit after the other; what they find out comes back as JSON.

Retries, backpressure and progress are Ray Data's. That a unit's output is there once, whole, is the workers' affair:
Ray runs a unit again when its worker died, and may run it twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from veilkern.data.people import Problem
from veilkern.datasets.source import Unit
from veilkern.errors import BackendError, VeilkernError
from veilkern.threads import available_cores

TRIES = 3  # of a unit whose worker dies


@dataclass(frozen=True)
class Cluster:
    """Where a job runs, and with how many workers.

    address: of a Ray cluster (`auto`: the one that this machine is part of), or None: the one that this process is
    connected to, else one of this machine alone, for the time of the job. cores, gpus: of a worker. workers: how many
    (default: as many as there is room for).
    """

    address: str | None = None
    workers: int | None = None
    cores: int = 2
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("cores", self.cores)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Cluster: {name} must be a positive integer, got {value!r}")
        if isinstance(self.gpus, bool) or not isinstance(self.gpus, (int, float)) or not 0 <= self.gpus <= 1024:
            raise ValueError(f"Cluster: gpus must be a number, 0 or more, got {self.gpus!r}")


def check_cluster(op: str, cluster: object) -> None:
    if not isinstance(cluster, Cluster):
        raise TypeError(f"{op}: cluster must be a Cluster, got {type(cluster).__name__}")


class Worker(Protocol):
    """What does the units. It is made once in each worker's process."""

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Do a unit; a dict for JSON, with `problems` and `notices` as lists of [file, cause]."""


def require_ray() -> Any:
    """The module ray, with ray.data. BackendError when it is not there."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendError(f"jobs on many machines need Ray ({error}): pip install 'veilkern[ray]'") from error
    return ray


def run(kind: type, job: object, units: Sequence[Unit], cluster: Cluster) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """Do all units by workers `kind(job)`; yields each with what its worker found out, as they are done. A unit whose
    worker died TRIES times comes with that as its problem. Raises BackendError (no Ray, no room for a worker)."""
    ray = require_ray()
    with _connected(ray, cluster):
        yield from _each(ray, kind, job, units, cluster, _workers(ray, cluster, len(units)))


def _each(
    ray: Any, kind: type, job: object, units: Sequence[Unit], cluster: Cluster, workers: int
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    found_of = {unit.name: unit for unit in units}
    tries = ray.remote(num_cpus=0)(_Tries).remote()
    rows = [{"unit": json.dumps(dataclasses.asdict(unit))} for unit in units]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_constructor_args=(kind, job, tries),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=cluster.cores,
        num_gpus=cluster.gpus or None,
    )
    try:
        for row in data.iter_rows():
            found = json.loads(row["found"])
            yield found_of[found.pop("unit")], found
    except ray.exceptions.RayError as error:
        cause = str(getattr(error, "cause", None) or error).strip().splitlines()
        raise BackendError(f"the job ended: {cause[-1] if cause else type(error).__name__}") from error


class _Tries:
    """An actor that counts how often each unit was begun: one that ends its worker would be begun for ever."""

    def __init__(self) -> None:
        self.begun = Counter[str]()

    def begin(self, unit: str) -> int:
        self.begun[unit] += 1
        return self.begun[unit]


class _Actor:
    """A Worker, as Ray Data wants it."""

    def __init__(self, kind: type, job: object, tries: Any) -> None:
        self.kind, self.job, self.tries = kind, job, tries
        self.worker: Worker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        units = [Unit(**json.loads(str(text))) for text in batch["unit"]]
        return {"found": [json.dumps({**self._found(unit), "unit": unit.name}) for unit in units]}

    def _found(self, unit: Unit) -> dict[str, Any]:
        import ray

        if ray.get(self.tries.begin.remote(unit.name)) > TRIES:
            return _failed(unit, f"its worker died {TRIES} times (out of memory? a photo that ends the process?)")
        try:
            if self.worker is None:  # made here, where its errors are no deaths
                self.worker = self.kind(self.job)
            return self.worker(unit)
        except Exception as error:  # the user's network may raise anything; the other units go on
            known = isinstance(error, (VeilkernError, ValueError, OSError))
            return _failed(unit, f"{'' if known else type(error).__name__ + ': '}{error}")


def _failed(unit: Unit, cause: str) -> dict[str, Any]:
    cause = cause.removeprefix(f"{unit.where}: ")
    return {"problems": [(unit.where if unit.people is None else f"{unit.where} ({unit.name})", cause)], "notices": []}


def problems_of(found: dict[str, Any]) -> tuple[list[Problem], list[Problem]]:
    """The problems and notices of what a worker found out."""
    problems, notices = ([Problem(*pair) for pair in found[name]] for name in ("problems", "notices"))
    return problems, notices


def pairs(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Problems as JSON has them."""
    return [(problem.file, problem.cause) for problem in problems]


@contextlib.contextmanager
def _connected(ray: Any, cluster: Cluster) -> Iterator[None]:
    """Connected to Ray; what was begun here ends here."""
    own = not ray.is_initialized()
    if own:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if cluster.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a job goes anywhere else
            cores = max(available_cores(), (cluster.workers or 1) * cluster.cores)
            options |= {"num_cpus": cores, "include_dashboard": False, "object_store_memory": 100 << 20}
        terminating = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=cluster.address, **options)
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminating)  # Ray has put its own there
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = cluster.address or "on this machine"
            raise BackendError(f"no Ray cluster {where}: {str(error).splitlines()[0]}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def _workers(ray: Any, cluster: Cluster, units: int) -> int:
    """How many workers; BackendError where there is no room for them, for which Ray would wait for ever."""
    there = ray.cluster_resources()
    room = int(there.get("CPU", 0) // cluster.cores)
    if cluster.gpus:
        room = min(room, int(there.get("GPU", 0) / cluster.gpus))
    wanted = cluster.workers or 1
    if room < wanted:
        raise BackendError(
            f"{wanted} workers of {cluster.cores} cores and {cluster.gpus:g} GPUs have no room in a cluster of "
            f"{there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs"
        )
    return min(cluster.workers or room, max(units, 1))
