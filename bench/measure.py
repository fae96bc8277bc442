"""Times a stage of a case under the schedule of the project and under the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
from torch import Tensor

from bench.cases import ALL, Case
from bench.rates import count_operations, device_seconds
from bench.turns import Schedule, Turns, take_turns
from mst_distill.metric import Terms
from mst_distill.mst.ensemble import assemble_ensemble, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import prepare_members
from mst_distill.mst.stage2_masks import build_masks, prepare_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.parameters import Runtime
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Row, Stage, fit
from mst_distill.training.task import Task
from tests.reference import plain

TOLERANCE = 1e-3
"""The largest accepted `difference` of the metrics of the first epoch."""

SMALL = 0.1
"""The smallest denominator of a relative difference of metrics."""

EPOCHS_OF_ROUTE = 8
"""The number of epochs per turn in stage 3, whose epochs are short."""


def plain_members(case: Case) -> Iterator[Row]:
    """Run the plain stage 1 epoch by epoch, from the initial weights of the seed."""
    return plain.train_members(case.run, case.plain_plan, _plain_nets(case))


def plain_masks(case: Case) -> Iterator[Row]:
    """Run the plain stage 2, in the manner of `plain_members`."""
    nets = _plain_nets(case)
    return plain.train_masks(case.run, case.plain_plan, nets, _plain_masks(case, nets), {})


def plain_student(case: Case) -> Iterator[Row]:
    """Run the plain stage 3, in the manner of `plain_members`."""
    nets = _plain_nets(case)
    return plain.train_student(case.run, case.plain_plan, nets, _plain_masks(case, nets))


def plain_baseline(case: Case) -> Iterator[Row]:
    """Run the plain training loop of the baseline, in the manner of `plain_members`."""
    return plain.train_baseline(case.run, case.plain_plan, _plain_nets(case))


def _plain_nets(case: Case) -> plain.Nets:
    return plain.on_device(case.run, build_members(case.run, case.plain_plan))


def _plain_masks(case: Case, nets: plain.Nets) -> plain.Nets:
    return plain.on_device(case.run, build_masks(case.run, case.plain_plan, nets))


PLAIN: dict[str, Callable[[Case], Iterator[Row]]] = {
    "teachers": plain_members,
    "masks": plain_masks,
    "route": plain_student,
}
"""Stage to its plain schedule."""


@dataclass(frozen=True)
class Timing:
    """The measurements of one stage under both schedules; an epoch includes validation.

    Attributes:
        samples: The number of samples in the training split.
        seconds: Median seconds per epoch of the project's schedule.
        plain_seconds: Median seconds per epoch of the plain schedule.
        baseline_seconds: Median seconds per epoch of the plain loop of the baseline; only stage 3
            is compared with it.
        once_seconds: Seconds of the project's schedule before the first epoch, once per run.
        peak_bytes: Peak memory of the project's schedule.
        plain_peak_bytes: Peak memory of the plain schedule.
        operations: The operations of products and convolutions in an epoch of the project's
            schedule.
        busy: The share of the project's time in which a GPU computes; None on a CPU.
        difference: The `difference` of their metrics of the first epoch.
    """

    samples: int
    seconds: float
    plain_seconds: float
    baseline_seconds: float | None
    once_seconds: float
    peak_bytes: int
    plain_peak_bytes: int
    operations: float
    busy: float | None
    difference: float


def measure(name: str, stage: str, runtime: Runtime, repeats: int) -> Timing:
    """Time a stage of a case under both schedules.

    Raises:
        AssertionError: Their metrics differ by `TOLERANCE` or more.
    """
    epochs_per_turn = EPOCHS_OF_ROUTE if stage == "route" else 1
    schedules: dict[str, tuple[Schedule, int]] = {
        "project": (partial(_time_project, name, stage, runtime), epochs_per_turn),
        "plain": (partial(_time_plain, name, PLAIN[stage], runtime), 1),
    }
    if stage == "route":
        schedules["baseline"] = (
            partial(_time_plain, name, plain_baseline, runtime),
            epochs_per_turn,
        )
    clocked = take_turns(schedules, repeats)
    project, plain_schedule = clocked["project"], clocked["plain"]
    largest = difference(project.row, plain_schedule.row)
    assert largest < TOLERANCE, f"{name}, {stage}: the metrics differ by {largest:.1e}"
    case, seconds = ALL[name](runtime), median(project.epochs)
    return Timing(
        samples=int((case.run.splits["split"] == "train").sum()),
        seconds=seconds,
        plain_seconds=median(plain_schedule.epochs),
        baseline_seconds=median(clocked["baseline"].epochs) if "baseline" in clocked else None,
        once_seconds=project.once,
        peak_bytes=project.peak,
        plain_peak_bytes=plain_schedule.peak,
        operations=project.operations,
        busy=project.device_seconds / seconds if project.device_seconds else None,
        difference=largest,
    )


def prepare(case: Case, stage: str) -> Stage:
    """Prepare a stage of the project, with the initial weights of the seed."""
    run, plan = case.run, case.plan
    if stage == "teachers":
        return prepare_members(run, plan)[1]
    nets = build_members(run, plan)
    masks, adaptation = prepare_masks(run, plan, nets)
    if stage == "masks":
        return adaptation
    for mask in masks.values():
        mask.eval()
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, plan.route.batch_size)
    return prepare_student(run, plan, nets[run.target], ensemble, table)[1]


def difference(project: Row, plain_row: Row) -> float:
    """The largest difference of a metric, relative to its larger magnitude or to `SMALL`.

    Raises:
        KeyError: `project` lacks a metric of `plain_row`.
    """
    pairs = np.array([(project[name], value) for name, value in plain_row.items()])
    scale = np.abs(pairs).max(axis=1).clip(min=SMALL)
    return float((np.abs(pairs[:, 0] - pairs[:, 1]) / scale).max())


class ObservedTask(Task):
    """A task that calls a function after every epoch.

    Args:
        task: The task, which does all the work.
        after_epoch: The function.
    """

    def __init__(self, task: Task, after_epoch: Callable[[], None]) -> None:
        self.trainable = task.trainable
        self._task = task
        self._after_epoch = after_epoch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """As the wrapped task."""
        return self._task.losses(batch)

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """As the wrapped task."""
        return self._task.descend(batch, share)

    def validate(self, batch: Batch) -> Mapping[str, Tensor | Terms]:
        """As the wrapped task."""
        return self._task.validate(batch)

    def constants(self) -> tuple[float, ...] | None:
        """As the wrapped task."""
        return self._task.constants()

    def end_epoch(self, epoch: int) -> None:
        """As the wrapped task; then call the function."""
        self._task.end_epoch(epoch)
        self._after_epoch()


def _time_project(name: str, stage: str, runtime: Runtime, turns: Turns) -> Row:
    case = ALL[name](runtime)
    turns.begin()
    prepared = prepare(case, stage)
    settings = prepared.settings.model_copy(update={"epochs": turns.epochs})
    observed = replace(
        prepared, settings=settings, task=ObservedTask(prepared.task, turns.end_epoch)
    )
    turns.ready()
    first = fit(observed, runtime).history.iloc[0]
    turns.operations = count_operations(prepared, runtime)
    if case.run.device.type == "cuda":
        turns.device_seconds = device_seconds(prepared, runtime)
    return {str(metric): float(value) for metric, value in first.items()}


def _time_plain(
    name: str, train: Callable[[Case], Iterator[Row]], runtime: Runtime, turns: Turns
) -> Row:
    case = ALL[name](runtime)
    turns.begin()
    epochs = train(case)
    turns.ready()
    rows = []
    for _ in range(turns.epochs):
        rows.append(next(epochs))
        turns.end_epoch()
    return rows[0]
