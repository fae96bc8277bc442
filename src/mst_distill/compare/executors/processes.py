"""Jobs in several processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

from mst_distill.artifacts import progress, signals
from mst_distill.compare.executors.base import POLL, J, MakeWork, R, Slot, Workers


class Processes(Workers[J, R]):
    """Runs jobs in several processes.

    Args:
        make_work: Makes the function, in each process.
        workers: The largest number of processes.
        devices: The GPUs as ``CUDA_VISIBLE_DEVICES`` names them; processes take them in turn. None
            if every process sees all.
    """

    def __init__(
        self, make_work: MakeWork[J, R], workers: int, devices: Sequence[str] | None = None
    ) -> None:
        visible: Sequence[str | None] = devices or [None]
        super().__init__(
            [_ProcessSlot(make_work, visible[at % len(visible)]) for at in range(workers)]
        )


class _ProcessSlot(Slot):
    """A place for one process.

    It has an executor of its own, so that the death of one process is the end of its job alone.
    """

    deaths = (BrokenProcessPool,)

    def __init__(self, make_work: Callable[[], Any], device: str | None) -> None:
        self._arguments = (make_work, device, os.getpid())
        self._executor: ProcessPoolExecutor | None = None

    def _start(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                1, get_context("spawn"), initializer=_begin, initargs=self._arguments
            )
            self._pid = self._executor.submit(os.getpid)
        return self._executor

    def submit(self, job: Any) -> Future[Any]:
        """Begin a job, with a new worker if the last one has died since."""
        try:
            return self._start().submit(_work_on, job)
        except BrokenProcessPool:
            self.terminate()
            self.close()
            return self._start().submit(_work_on, job)

    def release(self) -> None:
        """Keep the process: no other one waits for its place."""

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


def _begin(make_work: Callable[[], Any], device: str | None, parent: int) -> None:
    """Prepare a worker."""
    _made.append(make_work)
    progress.hide()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # read when CUDA is first used
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
