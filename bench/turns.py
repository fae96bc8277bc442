"""Schedules that take turns: each in a process of its own, one epoch at a time, never two at once.

So none sees what another left in memory, and all see the same machine.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil
import torch

from mst_distill.training.loop import Row
from mst_distill.training.memory import most_held


class Turns:
    """What a schedule is given to say where it is.

    Attributes:
        epochs: How many it is to train.
    """

    def __init__(self, connection: Connection, turns: int, a_turn: int) -> None:
        self.epochs = turns * a_turn
        self._connection = connection
        self._a_turn = a_turn
        self._done = 0
        self.begin()

    def begin(self) -> None:
        """The data are there: from here on time and memory count."""
        self._began = time.perf_counter()
        self._resident = psutil.Process().memory_info().rss

    def ready(self) -> None:
        """All is laid out: say how long that took, and wait for the first turn."""
        self._hand_over(1)

    def end_epoch(self) -> None:
        """After the last epoch of a turn say how long one took, and wait for the next turn."""
        self._done += 1
        if self._done % self._a_turn == 0:
            self._hand_over(self._a_turn)

    def peak(self) -> int:
        """Bytes held at most beyond those at the beginning: of the GPU, else of the process."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return torch.cuda.max_memory_allocated()
        return most_held() - self._resident

    def _hand_over(self, epochs: int) -> None:
        self._connection.send((time.perf_counter() - self._began) / epochs)
        if self._done < self.epochs:
            self._connection.recv()
        self._began = time.perf_counter()


Schedule = Callable[[Turns], Row]
"""Trains for `Turns.epochs` epochs, and gives the figures of the first."""


@dataclass(frozen=True)
class Clocked:
    """How a schedule fared.

    Attributes:
        once: Seconds before the first epoch.
        epochs: Seconds an epoch in every turn but the first, which pays for what is done only once.
        peak: Bytes held at most.
        row: Figures of the first epoch.
    """

    once: float
    epochs: list[float]
    peak: int
    row: Row


def take_turns(schedules: Mapping[str, tuple[Schedule, int]], repeats: int) -> dict[str, Clocked]:
    """Let schedules train in turn, until `repeats` turns of each were timed.

    Args:
        schedules: By name a function that can be sent to another process, and its epochs a turn.
        repeats: Turns of each after the first.

    Raises:
        RuntimeError: A schedule failed; its own error stands on the screen.
    """
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    once: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in schedules}
    try:
        for name, (schedule, a_turn) in schedules.items():
            ends[name], far = context.Pipe()
            arguments = (schedule, far, repeats + 1, a_turn)
            context.Process(target=_run, args=arguments, daemon=True).start()
            far.close()
            once[name] = ends[name].recv()
        for _ in range(repeats + 1):
            for name, end in ends.items():
                end.send("your turn")
                seconds[name].append(end.recv())
        return {
            name: Clocked(once[name], seconds[name][1:], *end.recv()) for name, end in ends.items()
        }
    except (EOFError, OSError) as error:
        raise RuntimeError("a schedule failed, see above") from error


def _run(schedule: Schedule, connection: Connection, repeats: int, a_turn: int) -> None:
    turns = Turns(connection, repeats, a_turn)
    row = schedule(turns)
    connection.send((turns.peak(), row))
