"""A stage of a case under the project's schedule and under the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import numpy as np
from torch import Tensor

from bench import plain
from bench.cases import CASES, Case
from bench.turns import Schedule, Turns, take_turns
from mst_distill.mst.ensemble import assemble_panel, tabulate_logits
from mst_distill.mst.networks import build_members
from mst_distill.mst.stage1_teachers import prepare_members
from mst_distill.mst.stage2_masks import prepare_masks
from mst_distill.mst.stage3_route import prepare_student
from mst_distill.parameters import Runtime
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Row, Stage, fit
from mst_distill.training.task import Task

TOLERANCE = 1e-3
"""How far the figures of the first epoch may be apart; see `difference`."""

SMALL = 0.1
"""Figures below this one are held against it, not against one another."""

EPOCHS_OF_ROUTE = 8
"""Epochs that stage 3 takes at a turn, for they are short."""

PLAIN: dict[str, Callable[[Case], Iterator[Row]]] = {
    "teachers": plain.train_members,
    "masks": plain.train_masks,
    "route": plain.train_student,
}
"""Stage to its plain schedule."""


@dataclass(frozen=True)
class Timing:
    """An epoch of one stage, validation included, under both schedules.

    Attributes:
        samples: Of the training split.
        seconds: Median of ours.
        plain_seconds: Median of the plain schedule.
        alone_seconds: Median of the bare loop over the student alone (stage 3).
        once_seconds: What ours takes before the first epoch, once a run.
        peak_bytes: What ours holds at most.
        plain_peak_bytes: What the plain schedule holds at most.
        difference: How far their figures of the first epoch are apart.
    """

    samples: int
    seconds: float
    plain_seconds: float
    alone_seconds: float | None
    once_seconds: float
    peak_bytes: int
    plain_peak_bytes: int
    difference: float


def measure(name: str, stage: str, runtime: Runtime, repeats: int) -> Timing:
    """Time a stage of a case under both schedules.

    Raises:
        AssertionError: Their figures do not agree.
    """
    short = EPOCHS_OF_ROUTE if stage == "route" else 1
    schedules: dict[str, tuple[Schedule, int]] = {
        "ours": (partial(_ours, name, stage, runtime), short),
        "plain": (partial(_plainly, name, PLAIN[stage], runtime), 1),
    }
    if stage == "route":
        schedules["alone"] = (partial(_plainly, name, plain.train_alone, runtime), short)
    clocked = take_turns(schedules, repeats)
    ours, others = clocked["ours"], clocked["plain"]
    apart = difference(ours.row, others.row)
    assert apart < TOLERANCE, f"{name}, {stage}: figures are {apart:.1e} apart"
    case = CASES[name](runtime)
    return Timing(
        samples=int((case.run.splits["split"] == "train").sum()),
        seconds=median(ours.epochs),
        plain_seconds=median(others.epochs),
        alone_seconds=median(clocked["alone"].epochs) if "alone" in clocked else None,
        once_seconds=ours.once,
        peak_bytes=ours.peak,
        plain_peak_bytes=others.peak,
        difference=apart,
    )


def prepare(case: Case, stage: str) -> Stage:
    """One of the project's stages, ready to begin from the seed's weights."""
    run = case.run
    if stage == "teachers":
        return prepare_members(run, case.members, case.teachers, case.masks)[1]
    nets = build_members(run, case.members, case.masks)
    student = nets.pop(run.target)
    masks, adaptation = prepare_masks(run, nets, student, case.members, case.masks)
    if stage == "masks":
        return adaptation
    for mask in masks.values():
        mask.eval()
    panel = assemble_panel(run, nets, masks, case.members)
    table = tabulate_logits(run, panel, case.route.batch_size)
    return prepare_student(run, student, panel, table, case.route)[1]


def difference(ours: Row, plainly: Row) -> float:
    """The largest difference between figures of both, relative to the larger one or to `SMALL`."""
    pairs = np.array([(ours[name], value) for name, value in plainly.items()])
    scale = np.abs(pairs).max(axis=1).clip(min=SMALL)
    return float((np.abs(pairs[:, 0] - pairs[:, 1]) / scale).max())


class Watched(Task):
    """A task that says when an epoch is over."""

    def __init__(self, task: Task, after_epoch: Callable[[], None]) -> None:
        self.trainable = task.trainable
        self._task = task
        self._after_epoch = after_epoch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's."""
        return self._task.losses(batch)

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """The task's."""
        return self._task.descend(batch, share)

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The task's."""
        return self._task.judge(batch)

    def end_epoch(self, epoch: int) -> None:
        """The task's, then the word that an epoch is over."""
        self._task.end_epoch(epoch)
        self._after_epoch()


def _ours(name: str, stage: str, runtime: Runtime, turns: Turns) -> Row:
    case = CASES[name](runtime)
    turns.begin()
    ready = prepare(case, stage)
    settings = ready.settings.model_copy(update={"epochs": turns.epochs})
    watched = replace(ready, settings=settings, task=Watched(ready.task, turns.end_epoch))
    turns.ready()
    first = fit(watched, runtime).history.iloc[0]
    return {str(figure): float(value) for figure, value in first.items()}


def _plainly(
    name: str, train: Callable[[Case], Iterator[Row]], runtime: Runtime, turns: Turns
) -> Row:
    case = CASES[name](runtime)
    turns.begin()
    epochs = train(case)
    turns.ready()
    rows = []
    for _ in range(turns.epochs):
        rows.append(next(epochs))
        turns.end_epoch()
    return rows[0]
