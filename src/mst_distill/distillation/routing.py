"""Stage 3, dynamic distillation: a router picks specialists for every sample."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.distillation.losses import (
    balance_cv,
    balance_kl,
    cross_entropy,
    distillation,
    validation_figures,
)
from mst_distill.distillation.panel import Panel, logits_of_split
from mst_distill.distillation.router import router_class
from mst_distill.parameters import Route
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Fit, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task

SPECIALISTS = "specialists"
"""The name under which a batch carries the specialists' logits, ``(B, E, C, ...)``."""


@dataclass
class Weights:
    """The weights of the loss' three terms, and how they fall from epoch to epoch."""

    task: float
    kd: float
    balance: float

    def decay(self, epoch: int, early: bool) -> None:
        """Every 10 epochs the balance weighs 0.9 of what it did, every 30 KD weighs half.

        Args:
            epoch: The epoch that has just ended, from 0.
            early: Count as the reference does, which decays after epoch 0, 10, ... and 0, 30, ...;
                else after 10, 20, ... and after 30, 60, ... epochs are done.
        """
        done = epoch if early else epoch + 1
        if done % 10 == 0:
            self.balance *= 0.9
        if done % 30 == 0:
            self.kd *= 0.5


class Routing(Task):
    """L = w_task CE(S) + w_kd (1/k) sum over the chosen KD(S <- specialist) + w_lb LB.

    The paper's stage of dynamic distillation, with c = softmax(G(S(x))) and the k specialists of
    largest c for every sample. The choice is discrete, so KD gives the router no gradient: it
    learns from LB alone, whose gradient reaches the student too.

    A batch carries the target's modality and, frozen, the specialists' logits.

    Args:
        student: The target's net, going on from stage 1.
        router: From its logits to E preferences.
        target: The student's modality.
        specialists: E.
        classes: Rows of the table of who was given what: C, or 1 where labels are dense.
        route: Weights, k and the switches.
        ignored: The label that is no target, or None.
    """

    def __init__(
        self,
        student: nn.Module,
        router: nn.Module,
        target: str,
        specialists: int,
        classes: int,
        route: Route,
        ignored: int | None,
    ) -> None:
        self.student = student
        self.router = router
        self.trainable = nn.ModuleDict({"student": student, "router": router})
        self.weights = Weights(route.task_weight, route.kd_weight, route.balance_weight)
        self._target = target
        self._specialists = specialists
        self._classes = classes
        self._route = route
        self._ignored = ignored
        self._cells: list[Tensor] = []
        self.given: list[Tensor] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, ``kd``, ``balance``, unweighted, and the weighted sum ``loss``."""
        logits = self.student(batch.inputs[self._target])
        preference = self.router(logits).float().softmax(dim=1)
        chosen = self.choose(preference)
        (of_specialists,) = batch.frozen[SPECIALISTS]
        rows = torch.arange(len(chosen), device=chosen.device)
        kd = [
            distillation(logits, of_specialists[rows, pick], self._route.temperature).mean()
            for pick in chosen.unbind(dim=1)
        ]
        terms = {
            "ce": cross_entropy(logits, batch.label, self._ignored),
            "kd": sum(kd[1:], kd[0]) / len(kd),
            "balance": self._balance(preference),
        }
        self._note(chosen, batch.label)
        weights = self.weights
        loss = (
            weights.task * terms["ce"]
            + weights.kd * terms["kd"]
            + weights.balance * terms["balance"]
        )
        return {"loss": loss, **terms}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The student's ``accuracy`` and ``ce``."""
        logits = self.student(batch.inputs[self._target])
        return validation_figures(logits, batch.label, self._ignored)

    def choose(self, preference: Tensor) -> Tensor:
        """The k specialists of largest preference, ``(B, E)`` to ``(B, k)``, best first."""
        return preference.topk(self._route.chosen, dim=1).indices

    def state(self) -> dict[str, Any]:
        """The weights of the terms, and who was given what."""
        return {"weights": asdict(self.weights), "cells": self._cells, "given": self.given}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.weights = Weights(**state["weights"])
        self._cells, self.given = state["cells"], state["given"]

    def end_epoch(self, epoch: int) -> None:
        """Let the weights fall and note how many samples each specialist was given."""
        self.weights.decay(epoch, self._route.early_decay)
        self.given.append(self._count())
        self._cells = []

    def _balance(self, preference: Tensor) -> Tensor:
        if self._route.balance == "cv":
            return balance_cv(preference)
        return balance_kl(preference, self._route.scaled_balance)

    def _note(self, chosen: Tensor, label: Tensor) -> None:
        """Keep a batch's cells of the table of class by specialist; dense labels are one class."""
        dense = label.dim() > 1
        self._cells.append(chosen if dense else label[:, None] * self._specialists + chosen)

    def _count(self) -> Tensor:
        """The epoch's table, ``(classes, E)``."""
        cells = torch.cat(self._cells).flatten()
        counts = torch.bincount(cells, minlength=self._classes * self._specialists)
        return counts.view(self._classes, self._specialists)


@dataclass(frozen=True)
class Distilled:
    """What stage 3 leaves behind.

    Attributes:
        students: Rule of selection to the student of the epoch that it prefers.
        router: The router of the epoch that the run's own rule prefers.
        fit: Histories and kept epochs.
        given: A row an epoch, class and specialist: ``samples``, how many it was given.
    """

    students: dict[str, nn.Module]
    router: nn.Module
    fit: Fit
    given: pd.DataFrame


def prepare_student(
    run: Run, student: nn.Module, panel: Panel, table: pd.DataFrame, route: Route
) -> tuple[Routing, Stage]:
    """Build the router and lay out the training of router and student.

    Args:
        run: The run.
        student: The target's net after stage 1.
        panel: The specialists, asked at every step where `table` has no rows.
        table: Their logits, from `tabulate_logits`.
        route: Stage 3.

    Raises:
        ValueError: The table is of other samples or specialists.
    """
    experts, samples = len(panel.names), run.samples
    task = Routing(
        student,
        build_router(run, experts),
        run.target,
        experts,
        1 if samples.dense else len(samples.classes),
        route,
        samples.ignored_label,
    )
    run.place(task.trainable)
    known = {SPECIALISTS: logits_of_split(run, panel, table, "train")} if len(table) else None
    asked = {SPECIALISTS: panel.frozen()} if known is None else None
    train = run.batches(
        "train", [run.target], route.batch_size, shuffle="route", frozen=asked, tables=known
    )
    valid = run.batches("valid", [run.target], route.batch_size)
    run.seed_noise("route")
    return task, Stage("route", task, train, valid, route, SELECTION)


def train_student(
    run: Run, student: nn.Module, panel: Panel, table: pd.DataFrame, route: Route
) -> Distilled:
    """Distil the panel into the student, sample by sample from the specialist that is picked.

    See `prepare_student`.
    """
    task, stage = prepare_student(run, student, panel, table, route)
    done = fit(stage, run.runtime, run.checkpoint("route"))
    students = {}
    for rule in SELECTION:
        task.trainable.load_state_dict(done.kept[rule].state)
        students[rule] = copy.deepcopy(task.student).eval()
    task.trainable.load_state_dict(done.kept[route.selection].state)
    return Distilled(students, task.router.eval(), done, _given_table(run, panel, task.given))


def build_router(run: Run, specialists: int) -> nn.Module:
    """A new router from the student's logits to `specialists` preferences."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(run.seed, "router"))
        return router_class(run.samples.dense)(len(run.samples.classes), specialists)


def _given_table(run: Run, panel: Panel, given: list[Tensor]) -> pd.DataFrame:
    classes = ("all",) if run.samples.dense else run.samples.classes
    table = pd.DataFrame(
        torch.stack(given).flatten().cpu().numpy(),
        index=pd.MultiIndex.from_product(
            [range(len(given)), classes, panel.names], names=["epoch", "class", "specialist"]
        ),
        columns=["samples"],
    )
    return table.reset_index()
