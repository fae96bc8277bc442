"""What all executors have in common, and the one that runs jobs in this process.

An executor knows nothing of trainings: it applies a function to jobs. Each worker makes the
function for itself, so that what it needs, such as samples, is opened there and not sent.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from mst_distill.artifacts import signals

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

    @property
    def identity(self) -> str:
        """A name of letters and digits that another run gives the same job, and no other job."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


@dataclass(frozen=True)
class WorkerDied:
    """The outcome of a job whose worker has died as often as it was begun.

    Attributes:
        reason: A clause on what has happened.
    """

    reason: str = f"its process has ended {ATTEMPTS} times"


MakeWork = Callable[[], Callable[[J], R]]
"""Makes the function that is applied to jobs. It is sent to workers, and can be pickled."""

Announce = Callable[[J], None]
"""Called in the parent process before a job begins."""


class Executor(ABC, Generic[J, R]):
    """Applies a function to jobs; a context, at the end of which its workers end."""

    @abstractmethod
    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R | WorkerDied]]:
        """Run jobs, and yield each when it ends, with its result.

        Raises:
            Interrupted: A signal asked the run to end.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        return


class Sequential(Executor[J, R]):
    """Runs jobs in this process, in their order.

    Args:
        make_work: Makes the function, before the first job.
    """

    def __init__(self, make_work: MakeWork[J, R]) -> None:
        self._make_work = make_work

    @cached_property
    def _work(self) -> Callable[[J], R]:
        return self._make_work()

    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            announce(job)
            yield job, self._work(job)


class Slot(ABC):
    """A place for one worker, which is started by the first job.

    Attributes:
        deaths: The errors of a job that say that its worker has died.
    """

    deaths: ClassVar[tuple[type[BaseException], ...]]
    _group: object = None

    def take(self, waiting: list[tuple[J, int]]) -> tuple[J, int]:
        """Remove a job from those that wait, of the group of the last one if there is one."""
        same = (at for at, (job, _) in enumerate(waiting) if job.group == self._group)
        job, attempt = waiting.pop(next(same, 0))
        self._group = job.group
        return job, attempt

    @abstractmethod
    def submit(self, job: Any) -> Future[Any]:
        """Begin a job."""

    def cause_of(self, error: BaseException) -> BaseException:
        """The error of a job as the function raised it."""
        return error

    @abstractmethod
    def release(self) -> None:
        """There is no further job: free what another worker may wait for."""

    @abstractmethod
    def terminate(self) -> None:
        """Let the worker end soon, also if it has a job."""

    @abstractmethod
    def close(self) -> None:
        """Wait for the end of the worker; the next job begins in a new one."""


class Workers(Executor[J, R]):
    """Runs jobs in workers that this process feeds.

    A job whose worker dies is begun again by a new worker, `ATTEMPTS` times in all.

    Args:
        slots: The places for workers.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots

    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R | WorkerDied]]:
        """Run jobs, those of one group in one worker where possible; see `Executor`.

        After a signal, the workers end with the context.
        """
        waiting = [(job, 1) for job in jobs]
        running: dict[Future[R], tuple[Slot, J, int]] = {}
        while waiting or running:
            busy = [slot for slot, _, _ in running.values()]
            for slot in self._slots:
                if slot in busy:
                    continue
                if not waiting:
                    slot.release()
                else:
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
                if not isinstance(error, (*slot.deaths, signals.Interrupted)):
                    raise slot.cause_of(error)
                slot.terminate()
                slot.close()
                if attempt == ATTEMPTS:
                    yield job, WorkerDied()
                    continue
                log_attempt(job, attempt + 1)
                waiting.insert(0, (job, attempt + 1))

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        for slot in self._slots:
            if kind is not None:
                slot.terminate()
        for slot in self._slots:
            slot.close()


def log_attempt(job: Job, attempt: int) -> None:
    """Log that a job is begun again."""
    log.warning(
        "%s is begun again, since its process has ended: attempt %d of %d",
        *(job.title, attempt, ATTEMPTS),
    )
