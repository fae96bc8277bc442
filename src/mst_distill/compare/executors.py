"""Who runs the trainings of a comparison: this process one after the other, or several processes.

An executor knows nothing of trainings: it applies a function to jobs. Each worker makes the
function for itself, so that what it needs, such as samples, is opened there and not sent.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from typing import Any, Generic, Protocol, Self, TypeVar

from mst_distill.artifacts import progress, signals
from mst_distill.parameters import Runtime

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a job is begun whose worker dies."""

POLL = 0.2
"""The longest time in seconds after which a signal is noticed, or the end of the parent process."""


class Job(Protocol):
    """What an executor reads of a job."""

    @property
    def title(self) -> str:
        """The job, for messages."""

    @property
    def group(self) -> object:
        """Jobs of one group share what a worker has opened."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDied:
    """The outcome of a job whose worker has died as often as it was begun.

    Attributes:
        reason: A clause on what has happened.
    """

    reason: str


Announce = Callable[[J], None]
"""Called in the parent process before a job begins."""


class Executor(ABC, Generic[J, R]):
    """Applies a function to jobs; a context, at the end of which its workers end.

    Args:
        make_work: Makes the function, once in each worker.
    """

    def __init__(self, make_work: Callable[[], Callable[[J], R]]) -> None:
        self._make_work = make_work

    @abstractmethod
    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R | WorkerDied]]:
        """Run jobs, and yield each when it ends, with its result."""

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None: ...


def workers_of(runtime: Runtime) -> int:
    """The number of processes that work at a time."""
    if runtime.executor == "sequential":
        return 1
    return runtime.workers or os.cpu_count() or 1


def executor_of(runtime: Runtime, make_work: Callable[[], Callable[[J], R]]) -> Executor[J, R]:
    """The executor that the parameters name.

    Args:
        runtime: The parameters.
        make_work: Makes the function that is applied to jobs; for several processes it can be
            pickled.
    """
    if runtime.executor == "sequential":
        return Sequential(make_work)
    return Processes(make_work, workers_of(runtime))


class Sequential(Executor[J, R]):
    """Runs jobs in this process, in their order."""

    @cached_property
    def _work(self) -> Callable[[J], R]:
        return self._make_work()

    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            announce(job)
            yield job, self._work(job)

    def __exit__(self, *_error: object) -> None:
        return


class Processes(Executor[J, R]):
    """Runs jobs in several processes.

    A job whose worker dies is begun again by a new worker, `ATTEMPTS` times in all.

    Args:
        make_work: As in `Executor`; it can be pickled, and so can jobs and results.
        workers: The largest number of processes.
    """

    def __init__(self, make_work: Callable[[], Callable[[J], R]], workers: int) -> None:
        super().__init__(make_work)
        self._slots = [_Slot(make_work) for _ in range(workers)]

    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R | WorkerDied]]:
        """Run jobs, those of one group in one worker where possible.

        Raises:
            Interrupted: A signal asked the run to end. The workers save their state and end with
                the context.
        """
        waiting = [(job, 1) for job in jobs]
        running: dict[Future[R], tuple[_Slot, J, int]] = {}
        while waiting or running:
            busy = [slot for slot, _, _ in running.values()]
            for slot in self._slots:
                if waiting and slot not in busy:
                    job, attempt = slot.take(waiting)
                    announce(job)
                    running[slot.submit(job)] = slot, job, attempt
            done, _ = wait(running, POLL, FIRST_COMPLETED)
            signals.check()
            for future in done:
                slot, job, attempt = running.pop(future)
                error = future.exception()
                if error is None:
                    yield job, future.result()
                    continue
                if not isinstance(error, (BrokenProcessPool, signals.Interrupted)):
                    raise error
                slot.restart()
                if attempt == ATTEMPTS:
                    yield job, WorkerDied(f"its process has ended {ATTEMPTS} times")
                    continue
                log.warning(
                    "%s is begun again, since its process has ended: attempt %d of %d",
                    *(job.title, attempt + 1, ATTEMPTS),
                )
                waiting.insert(0, (job, attempt + 1))

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        for slot in self._slots:
            if kind is not None:
                slot.terminate()
        for slot in self._slots:
            slot.close()


class _Slot:
    """A place for one worker, which is started by the first job.

    Each worker has an executor of its own, so that the death of one is the end of its job alone.
    """

    def __init__(self, make_work: Callable[[], Any]) -> None:
        self._make_work = make_work
        self._group: object = None
        self._executor: ProcessPoolExecutor | None = None

    def _start(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                1, get_context("spawn"), initializer=_begin, initargs=(self._make_work, os.getpid())
            )
            self._pid = self._executor.submit(os.getpid)
        return self._executor

    def take(self, waiting: list[tuple[J, int]]) -> tuple[J, int]:
        """Remove a job from those that wait, of the group of the last one if there is one."""
        same = (at for at, (job, _) in enumerate(waiting) if job.group == self._group)
        job, attempt = waiting.pop(next(same, 0))
        self._group = job.group
        return job, attempt

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job, with a new worker if the last one has died since."""
        try:
            return self._start().submit(_work_on, job)
        except BrokenProcessPool:
            self.restart()
            return self._start().submit(_work_on, job)

    def restart(self) -> None:
        """Let the next job begin in a new worker."""
        self.terminate()
        self.close()

    def terminate(self) -> None:
        """Let the worker save the state of its job and end."""
        if self._executor is not None and self._pid.done() and not self._pid.exception():
            with suppress(ProcessLookupError):
                os.kill(self._pid.result(), signal.SIGTERM)

    def close(self) -> None:
        """Wait for the end of the worker."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None


_made: list[Callable[[], Any]] = []
_work: list[Callable[[Any], Any]] = []
_busy = threading.Event()


def _begin(make_work: Callable[[], Any], parent: int) -> None:
    """Prepare a worker."""
    _made.append(make_work)
    progress.hide()
    for name in ("SIGINT", "SIGHUP"):  # the parent receives them too, and ends the workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the parent process has ended, with the state of its job saved."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)
    while _busy.is_set():
        time.sleep(POLL)
    os._exit(1)  # the main thread waits for jobs that never come


def _work_on(job: Any) -> Any:
    _busy.set()
    try:
        with signals.listening((signal.SIGTERM,)):
            if not _work:
                _work.append(_made[0]())
            return _work[0](job)
    finally:
        _busy.clear()
