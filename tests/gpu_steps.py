"""What the steps of a training wait for, on simulated GPUs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest import mock

from mst_distill.training import loop
from simulated_gpu import SimulatedGPU


@dataclass(frozen=True)
class RecordedSteps:
    """Two simulated GPUs, and what the steps of each stage waited for.

    The first step of an epoch is not recorded: it copies the order of the epoch to the GPU. Nor is
    a step that is captured in a CUDA graph, which happens once.
    """

    gpu: SimulatedGPU
    waits: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def record(self, training: loop._Training, steps: Iterator[None]) -> Iterator[None]:
        """Record the steps of an epoch."""
        if next(steps, "end") == "end":
            return
        yield
        while True:
            with self.gpu.recorded() as record:
                end = next(steps, "end")
            if record.waits and not record.captured:
                self.waits[training._stage.name].update(record.waits)
            if end == "end":
                return
            yield


@contextmanager
def recorded_steps() -> Iterator[RecordedSteps]:
    """A context with two simulated GPUs in which the steps of every training are recorded."""
    train_epoch = loop._Training.train_epoch
    with SimulatedGPU(devices=2) as gpu:
        recorded = RecordedSteps(gpu)

        def train_and_record(training: loop._Training) -> Iterator[None]:
            return recorded.record(training, train_epoch(training))

        with mock.patch.object(loop._Training, "train_epoch", train_and_record):
            yield recorded
