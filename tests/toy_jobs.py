"""Jobs of an executor, in a module that processes import fast."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Number:
    """A job: a number, and what happens to the process that works on it."""

    value: int
    folder: str = ""
    kills: int = 0
    seconds: float = 0

    @property
    def title(self) -> str:
        return f"job {self.value}"

    @property
    def identity(self) -> str:
        return f"number{self.value}".replace("-", "minus")

    @property
    def group(self) -> int:
        return self.value % 2


def make_square(log: str = "") -> Any:
    """The work of the tests: squares, noting which process computed them."""

    def square(job: Number) -> tuple[int, int]:
        if job.folder:
            file = Path(job.folder, f"{job.value}-{time.monotonic_ns()}")
            file.write_text(str(os.getpid()))
            if len(list(Path(job.folder).glob(f"{job.value}-*"))) <= job.kills:
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(job.seconds)
        if job.value < 0:
            raise ArithmeticError("no negative number")
        return job.value**2, os.getpid()

    return square


@dataclass(frozen=True)
class Given:
    """What a worker was given of its machine."""

    threads: int | None
    sharers: int | None
    device: str | None


def make_given(*, threads: int | None, sharers: int | None) -> Callable[[Number], Given]:
    """The work of other tests: what the worker was given."""
    return lambda job: Given(threads, sharers, os.environ.get("CUDA_VISIBLE_DEVICES"))
