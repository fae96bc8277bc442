"""Jobs on the nodes of a Slurm cluster, several in a job of Slurm.

The driver and the nodes share a folder: the driver writes there what a job of Slurm has to do, and
the job leaves each result there when it has it. So the end of either is no loss: Slurm's jobs run
on when the driver ends, and the next driver takes their results, or waits for them.
"""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import submitit

from mst_distill.artifacts import progress, signals
from mst_distill.artifacts.atomic import replacing
from mst_distill.compare.executors.base import (
    ATTEMPTS,
    POLL,
    Announce,
    Executor,
    J,
    MakeWork,
    R,
    Sequential,
    WorkerDied,
    log_attempt,
)
from mst_distill.compare.executors.processes import Processes

log = logging.getLogger(__name__)

TOGETHER = 4
"""The largest number of our jobs in one of Slurm, which opens the samples once for all of them."""

ASK = 5.0
"""The time in seconds between two questions to Slurm."""


class SlurmJobs(Executor[J, R]):
    """Runs jobs in job arrays of Slurm.

    A job of Slurm that runs out of time or is preempted is queued again by submitit or by Slurm,
    and goes on with what it has not finished. What it leaves undone when it ends in another way is
    begun again, `ATTEMPTS` times in all.

    Args:
        make_work: Makes the function, in each job of Slurm.
        folder: A folder that this machine and the nodes share.
        workers: The largest number of jobs of Slurm that run at a time; None for no limit.
        processes: The number of processes in one job of Slurm.
        options: Of sbatch, as submitit names them, such as ``partition``; ``time`` in minutes.
    """

    def __init__(
        self,
        make_work: MakeWork[J, R],
        folder: Path,
        workers: int | None,
        processes: int,
        options: Mapping[str, Any],
    ) -> None:
        self._work = pickle.dumps(make_work)
        self._processes = processes
        self._folder = folder.absolute()
        self._results = self._folder / "results"
        self._results.mkdir(parents=True, exist_ok=True)
        self._slurm = submitit.SlurmExecutor(self._folder)
        limit = {"array_parallelism": workers} if workers else {}
        try:
            self._slurm.update_parameters(**{"job_name": "mst-distill", **limit, **options})
        except ValueError as error:
            raise ValueError(f"runtime.slurm: {error}") from None

    def run(self, jobs: Sequence[J], announce: Announce[J]) -> Generator[tuple[J, R | WorkerDied]]:
        """Run jobs; see `Executor`.

        After a signal, Slurm's jobs go on.
        """
        waiting = {job.identity: job for job in jobs}
        attempts = Counter[str]()
        running = {
            slurm_id: names
            for slurm_id, names in self._submitted().items()
            if names & waiting.keys()
        }
        self._submit([*self._missing(waiting, running)], running, announce)
        asked = time.monotonic()
        while waiting:
            for name in self._finished() & waiting.keys():
                signals.check()
                yield waiting.pop(name), self._take(name)
            signals.check()
            if time.monotonic() - asked < ASK:
                time.sleep(POLL)
                continue
            asked, queued = time.monotonic(), _queued()
            if queued is None:
                continue
            dead = [slurm_id for slurm_id in running if slurm_id not in queued]
            finished = self._finished()  # after the queue: what has ended has left its results
            for slurm_id in dead:
                names = running.pop(slurm_id) & waiting.keys() - finished
                undone = [job for name, job in waiting.items() if name in names]
                self._forget(slurm_id, keep_logs=bool(undone))
                attempts.update(job.identity for job in undone)
                for job in undone:
                    if attempts[job.identity] == ATTEMPTS:
                        yield (
                            waiting.pop(job.identity),
                            WorkerDied(
                                f"its Slurm job has ended {ATTEMPTS} times, see "
                                f"{self._folder / slurm_id}_0_log.err"
                            ),
                        )
                        continue
                    log_attempt(job, attempts[job.identity] + 1)
                    self._submit([[job]], running, announce)
        for slurm_id in running:
            self._forget(slurm_id)

    def _missing(
        self, waiting: Mapping[str, J], running: Mapping[str, set[str]]
    ) -> Iterator[list[J]]:
        """What is neither finished nor in the queue, as lists for one job of Slurm each."""
        taken = self._finished().union(*running.values())
        groups: dict[object, list[J]] = {}
        for name, job in waiting.items():
            if name not in taken:
                groups.setdefault(job.group, []).append(job)
        size = TOGETHER * self._processes
        for group in groups.values():
            yield from (group[at : at + size] for at in range(0, len(group), size))

    def _submit(
        self, parts: Sequence[list[J]], running: dict[str, set[str]], announce: Announce[J]
    ) -> None:
        """Submit an array with one job of Slurm for each part."""
        if not parts:
            return
        path, processes = tuple(sys.path), self._processes
        try:
            with self._slurm.batch():
                submitted = [
                    self._slurm.submit(
                        _Part(path, self._work, pickle.dumps(part), processes), self._results
                    )
                    for part in parts
                ]
        except submitit.core.utils.FailedJobError as error:
            raise ValueError(f"Slurm does not take the jobs, see runtime.slurm: {error}") from None
        for script in self._folder.glob("*submission*.sh"):  # Slurm has its own copy
            script.unlink()
        for slurm_job, part in zip(submitted, parts, strict=True):
            names = [job.identity for job in part]
            running[slurm_job.job_id] = {*names}
            with replacing(self._record(slurm_job.job_id)) as file:
                file.write_text(json.dumps(names), encoding="utf-8")
            for job in part:
                announce(job)

    def _submitted(self) -> dict[str, set[str]]:
        """What an earlier driver has submitted, by the job of Slurm, which may have ended."""
        return {
            path.stem: {*json.loads(path.read_text(encoding="utf-8"))}
            for path in self._folder.glob("*.json")
        }

    def _finished(self) -> set[str]:
        # Listing a folder renews what NFS remembers of it; asking for a file may not.
        return {path.stem for path in self._results.iterdir() if path.suffix == ".pickle"}

    def _take(self, name: str) -> R:
        file = _result_file(self._results, name)
        result: R | _Failed = pickle.loads(file.read_bytes())
        file.unlink()
        if isinstance(result, _Failed):
            raise result.error
        return result

    def _record(self, slurm_id: str) -> Path:
        return self._folder / f"{slurm_id}.json"

    def _forget(self, slurm_id: str, keep_logs: bool = False) -> None:
        for path in self._folder.glob(f"{slurm_id}_*"):
            if not (keep_logs and "_log." in path.name):
                path.unlink(missing_ok=True)
        self._record(slurm_id).unlink(missing_ok=True)


def _queued() -> set[str] | None:
    """The user's jobs that are in Slurm's queue or run; None if Slurm does not answer."""
    asked = subprocess.run(
        ["squeue", "--me", "--array", "--noheader", "--format=%i"],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        log.warning("squeue failed, and will be asked again: %s", asked.stderr.strip())
        return None
    return {*asked.stdout.split()}


def _result_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.pickle"


@dataclass(frozen=True)
class _Part(submitit.helpers.Checkpointable):
    """What one job of Slurm does.

    It goes on in the next job of Slurm when the time of the first is over. Its content is unpickled
    once modules of the user can be imported.
    """

    path: tuple[str, ...]
    make_work: bytes
    jobs: bytes
    processes: int

    def __call__(self, results: Path) -> None:
        """Run the jobs for which there is no result, and write the result of each."""
        progress.hide()
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        make_work = partial(_guarded, pickle.loads(self.make_work))
        jobs: list[Any] = pickle.loads(self.jobs)
        jobs = [job for job in jobs if not _result_file(results, job.identity).exists()]
        executor: Executor[Any, Any] = Sequential(make_work)
        if self.processes > 1:
            executor = Processes(make_work, self.processes)
        with executor, closing(executor.run(jobs, _unannounced)) as done:
            for job, result in done:
                with replacing(_result_file(results, job.identity)) as file:
                    file.write_bytes(pickle.dumps(result))


@dataclass(frozen=True)
class _Failed:
    """What is left of a job whose function raised an error."""

    error: Exception


def _guarded(make_work: MakeWork[Any, Any]) -> Callable[[Any], Any]:
    """The function that `make_work` makes, and its errors as values, since they are written too."""
    made: list[Callable[[Any], Any]] = []

    def work(job: Any) -> Any:
        try:
            if not made:
                made.append(make_work())
            return made[0](job)
        except signals.Interrupted:
            raise
        except Exception as error:
            return _Failed(error)

    return work


def _unannounced(_job: Any) -> None:
    """Announce nothing: the driver has."""
