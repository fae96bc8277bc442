"""Times training schedules in turn: each in a process of its own, and never two at once.

No schedule is affected by memory that another has allocated, and changes in the load of the machine
affect all schedules equally.
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
    """The turns of one schedule, which the schedule reports its progress to.

    A schedule calls `begin` when its data are loaded, `ready` before its first epoch, and
    `end_epoch` after every epoch. The last two block until the schedule has its next turn.

    Args:
        connection: To the process that times the schedules.
        turns: The number of turns.
        epochs_per_turn: The number of epochs of a turn.

    Attributes:
        epochs: The number of epochs in all turns.
        operations: The operations of products and convolutions in an epoch, if they were counted.
        device_seconds: The seconds that a GPU computes in an epoch, if they were measured.
    """

    def __init__(self, connection: Connection, turns: int, epochs_per_turn: int) -> None:
        self.epochs = turns * epochs_per_turn
        self.operations = 0.0
        self.device_seconds = 0.0
        self._connection = connection
        self._epochs_per_turn = epochs_per_turn
        self._done = 0
        self.begin()

    def begin(self) -> None:
        """Start to measure time and memory; the data are loaded."""
        self._began = time.perf_counter()
        self._resident = psutil.Process().memory_info().rss

    def ready(self) -> None:
        """Report the seconds of the preparation, and wait for the first turn."""
        self._end_turn(1)

    def end_epoch(self) -> None:
        """After the last epoch of a turn, report seconds per epoch and wait for the next turn."""
        self._done += 1
        if self._done % self._epochs_per_turn == 0:
            self._end_turn(self._epochs_per_turn)

    def peak(self) -> int:
        """The peak memory in bytes: of the GPU, or else of the process beyond that at `begin`."""
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return torch.cuda.max_memory_allocated()
        return most_held() - self._resident

    def _end_turn(self, epochs: int) -> None:
        self._connection.send((time.perf_counter() - self._began) / epochs)
        if self._done < self.epochs:
            self._connection.recv()
        self._began = time.perf_counter()


Schedule = Callable[[Turns], Row]
"""Trains for `Turns.epochs` epochs, and returns the metrics of the first."""


@dataclass(frozen=True)
class Clocked:
    """The measurements of one schedule.

    Attributes:
        once: Seconds of the preparation before the first epoch.
        epochs: Seconds per epoch of every turn except the first, which includes one-time costs.
        peak: The peak memory in bytes.
        operations: `Turns.operations`.
        device_seconds: `Turns.device_seconds`.
        row: The metrics of the first epoch.
    """

    once: float
    epochs: list[float]
    peak: int
    operations: float
    device_seconds: float
    row: Row


def take_turns(schedules: Mapping[str, tuple[Schedule, int]], repeats: int) -> dict[str, Clocked]:
    """Run schedules in turn until `repeats` turns of each have been timed.

    Args:
        schedules: Name to a function that can be pickled, and its number of epochs per turn.
        repeats: The number of turns of each schedule after its first.

    Raises:
        RuntimeError: A schedule failed; its own error is printed to stderr.
    """
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    once: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in schedules}
    try:
        for name, (schedule, epochs_per_turn) in schedules.items():
            ends[name], other_end = context.Pipe()
            arguments = (schedule, other_end, repeats + 1, epochs_per_turn)
            context.Process(target=_run, args=arguments, daemon=True).start()
            # The new process has the only copy left, so that its death ends `recv` with EOFError.
            other_end.close()
            once[name] = ends[name].recv()
        for _ in range(repeats + 1):
            for name, end in ends.items():
                end.send("your turn")
                seconds[name].append(end.recv())
        return {
            name: Clocked(once[name], seconds[name][1:], *end.recv()) for name, end in ends.items()
        }
    except (EOFError, OSError) as error:
        raise RuntimeError("a schedule failed; its error is printed above") from error


def _run(schedule: Schedule, connection: Connection, turns: int, epochs_per_turn: int) -> None:
    state = Turns(connection, turns, epochs_per_turn)
    row = schedule(state)
    peak = state.peak()
    connection.send((peak, state.operations, state.device_seconds, row))
