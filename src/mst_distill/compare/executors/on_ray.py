"""Jobs in workers of a Ray cluster, or of a local one that is started for them."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray import exceptions

from mst_distill.artifacts import progress, signals
from mst_distill.compare.executors.base import J, MakeWork, R, Slot, Workers


class RayWorkers(Workers[J, R]):
    """Runs jobs in actors of Ray, each on a node with enough free processors and GPU.

    The cluster is the one that ``RAY_ADDRESS`` names, or that was started on this machine;
    otherwise a local one is started, which ends with this process: it takes 5 to 30 s to start.

    Args:
        make_work: Makes the function, in each worker.
        workers: The largest number of workers; None for as many as the cluster has room for now.
        threads: The processors of each worker.
        gpus: The GPUs of each worker, also a fraction of one, if a node has any.
    """

    def __init__(
        self, make_work: MakeWork[J, R], workers: int | None, threads: int, gpus: float
    ) -> None:
        if not ray.is_initialized():
            _connect()
        gpus = gpus if ray.cluster_resources().get("GPU") else 0
        room = _room(threads, gpus)
        slots = [_RaySlot(make_work, threads, gpus) for _ in range(workers or room)]
        super().__init__(slots)
        if not room:
            wanted = f"{threads} processors" + (f" and {gpus} GPUs" if gpus else "")
            raise ValueError(
                f"no node of the Ray cluster has the {wanted} of one worker: all have "
                f"{ray.cluster_resources()}. Set runtime.threads or runtime.gpu_share"
            )


def _connect() -> None:
    """Join the cluster; Ray's handlers of signals would end the run without its state saved."""
    handlers = {signum: signal.getsignal(signum) for signum in signals.SIGNALS}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        logging_level=logging.WARNING,
        include_dashboard=None if "RAY_ADDRESS" in os.environ else False,
    )
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def _room(threads: int, gpus: float) -> int:
    """How many workers the nodes have room for."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        int(min(of.get("CPU", 0) / threads, of.get("GPU", 0) / gpus if gpus else math.inf))
        for of in nodes
    )


class _RaySlot(Slot):
    """A place for one actor."""

    deaths = (exceptions.RayActorError, exceptions.NodeDiedError, exceptions.ObjectLostError)

    def __init__(self, make_work: Callable[[], Any], threads: int, gpus: float) -> None:
        self._arguments = (tuple(sys.path), pickle.dumps(make_work))
        self._options = {"num_cpus": threads, "num_gpus": gpus, "max_restarts": 0}
        self._actor: Any = None

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job, once a node has room for the worker."""
        if self._actor is None:
            self._actor = ray.remote(_Worker).options(**self._options).remote(*self._arguments)
        return self._actor.work_on.remote(job).future()

    def cause_of(self, error: BaseException) -> BaseException:
        """The error as it was in the worker, without Ray's report of it."""
        return error.cause if isinstance(error, exceptions.RayTaskError) else error

    def release(self) -> None:
        """Free the processors: when a node is lost, a new worker may wait for them."""
        self.terminate()

    def terminate(self) -> None:
        """End the worker; its job goes on from the last saved state."""
        if self._actor is not None:
            ray.kill(self._actor)
        self._actor = None

    def close(self) -> None:
        """End the worker, which has no job."""
        self.terminate()


class _Worker:
    """What an actor does. The function is unpickled once modules of the user can be imported."""

    def __init__(self, path: Sequence[str], make_work: bytes) -> None:
        progress.hide()
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._make_work = make_work
        self._work: Callable[[Any], Any] | None = None

    def work_on(self, job: Any) -> Any:
        """Apply the function, which the first job makes."""
        if self._work is None:
            self._work = pickle.loads(self._make_work)()
        return self._work(job)
