"""Stage 3, dynamic distillation: a router picks specialists for every sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from mst_distill.mst.ensemble import Panel, logits_of_split
from mst_distill.mst.features import Observed, Observer
from mst_distill.mst.gating import Heard, merit, over_places, right, weigh
from mst_distill.mst.losses import (
    at_least_float32,
    balance_cv,
    balance_kl,
    cross_entropy,
    distillation_by_place,
    validation_figures,
)
from mst_distill.mst.router import (
    ClassRouter,
    DenseRouter,
    FeatureRouter,
    UniformRouter,
)
from mst_distill.parameters import Route
from mst_distill.training.batches import Batch, Inputs
from mst_distill.training.loop import Fit, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import derive_seed
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task

SPECIALISTS = "specialists"
"""The name under which a batch carries the specialists' logits, ``(B, E, C, ...)``."""


@dataclass
class Weights:
    """The weights of the loss' terms that change, and how they fall from epoch to epoch."""

    kd: float
    balance: float

    def decay(self, epoch: int, route: Route) -> None:
        """Every 10 epochs the balance weighs 0.9 of what it did; every 30 KD weighs half.

        With ``halvings``, KD weighs half after each of these shares of the epochs. With
        ``early_decay``, as in the reference, the count is by one behind: after epoch 0, 10, ... and
        0, 30, ..., where else 10, 20, ... and 30, 60, ... epochs are done.

        Args:
            epoch: The epoch that has just ended, from 0.
            route: Stage 3.
        """
        done = epoch if route.early_decay else epoch + 1
        if done % 10 == 0:
            self.balance *= 0.9
        if route.halvings:
            self.kd *= 0.5 ** [round(share * route.epochs) for share in route.halvings].count(done)
        elif done % 30 == 0:
            self.kd *= 0.5


class Routing(Task):
    """L = w_task CE(S) + w_kd sum_e v_e KD(S <- e) + w_lb LB(c) + w_r CE(r, c), means over samples.

    The paper's stage of dynamic distillation is the router ``hard``: c = softmax(G(S(x))) and
    v_e = 1 / k for the k specialists of largest c. The choice is discrete, so KD gives the router
    no gradient: it learns from LB alone, whose gradient reaches the student too.

    The router ``learned`` is told who does well: r = softmax(-CE_e), and v = c, held fast.
    ``uniform`` has v_e = 1 / E and no router to train. If ``gated``, v_e = 0 for specialists that
    are wrong on the sample, and the others' v sums to 1; of dense labels each pixel has its own v.

    A batch carries the target's modality and, frozen, the specialists' logits.

    Args:
        student: The target's net, going on from stage 1.
        router: From what it makes of a sample to E preferences.
        target: The student's modality.
        specialists: E.
        classes: Rows of the table of who was given what: C, or 1 where labels are dense.
        route: Weights, k and the switches.
        ignored: The label that is no target, or None.
        observe: Gives the student's logits, with its embedding where the router asks for it.
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
        observe: Callable[[Inputs], Observed] | None = None,
    ) -> None:
        self.student = student
        self.router = router
        self.trainable = nn.ModuleDict({"student": student, "router": router})
        self.weights = Weights(route.kd_weight, route.balance_weight)
        self._observe = observe or (lambda inputs: Observed(student(inputs[target])))
        self._target = target
        self._shape = (classes, specialists)
        self._route = route
        self._ignored = ignored
        self._given: Tensor | None = None
        self.given: list[Tensor] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, ``kd``, and of what a router learns from ``balance`` and ``merit``; ``loss``."""
        student = self._observe(batch.inputs)
        (of_specialists,) = batch.frozen[SPECIALISTS]
        raw = at_least_float32(self.router(student))
        heard = self.weigh(raw.softmax(dim=1))
        if self._route.gated:
            heard = heard.gated(right(of_specialists, batch.label, self._ignored))
        self._note(heard, batch.label)
        terms = {
            "ce": cross_entropy(student.logits, batch.label, self._ignored),
            "kd": self._distil(student.logits, of_specialists, heard),
        }
        weighted = [self._route.task_weight * terms["ce"], self.weights.kd * terms["kd"]]
        if self._route.trains_router:
            terms["balance"] = self._balance(raw)
            weighted.append(self.weights.balance * terms["balance"])
        if self._route.router == "learned":
            wanted = merit(of_specialists, batch.label, self._ignored)
            terms["merit"] = -(wanted * raw.log_softmax(dim=1)).sum(dim=1).mean()
            weighted.append(self._route.merit_weight * terms["merit"])
        return {"loss": sum(weighted[1:], weighted[0]), **terms}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The student's ``accuracy`` and ``ce``."""
        logits = self.student(batch.inputs[self._target])
        return validation_figures(logits, batch.label, self._ignored)

    def weigh(self, preference: Tensor) -> Heard:
        """Which specialists are heard, and how much, by the router's preference ``(B, E)``."""
        return weigh(preference.detach(), self._route.picked)

    def state(self) -> dict[str, Any]:
        """The weights of the terms, and who was given what."""
        return {"weights": asdict(self.weights), "now": self._given, "given": self.given}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.weights = Weights(**state["weights"])
        self._given, self.given = state["now"], state["given"]

    def end_epoch(self, epoch: int) -> None:
        """Let the weights fall and note how much each specialist was heard."""
        self.weights.decay(epoch, self._route)
        if self._given is not None:
            self.given.append(self._given.cpu().view(self._shape))
        self._given = None

    def _distil(self, logits: Tensor, specialists: Tensor, heard: Heard) -> Tensor:
        rows = torch.arange(len(logits), device=logits.device)
        kd = []
        for pick, weight in zip(
            heard.chosen.unbind(dim=1), heard.weights.unbind(dim=1), strict=True
        ):
            said = specialists[rows, pick]
            each = distillation_by_place(logits, said, self._route.temperature)
            kd.append((over_places(weight, each) * each).mean())
        return sum(kd[1:], kd[0])

    def _balance(self, raw: Tensor) -> Tensor:
        if self._route.balance == "cv":
            return balance_cv(raw.softmax(dim=1))
        return balance_kl(raw.log_softmax(dim=1), self._route.scaled_balance)

    def _note(self, heard: Heard, label: Tensor) -> None:
        """Add a batch to the epoch's table of class by specialist; dense labels are one class."""
        classes, specialists = self._shape
        cells = heard.chosen + (0 if label.dim() > 1 else label[:, None] * specialists)
        weights = heard.weights.detach().double()
        if weights.dim() > 2:
            weights = weights.flatten(2).mean(dim=2)
        given = torch.bincount(cells.flatten(), weights.flatten(), classes * specialists)
        self._given = given if self._given is None else self._given.to(given.device) + given


@dataclass(frozen=True)
class Distilled:
    """What stage 3 leaves behind.

    Attributes:
        students: Rule of selection to the student of the epoch that it prefers.
        router: The router of the epoch that the run's own rule prefers.
        fit: Histories and kept epochs.
        given: A row an epoch, class and specialist: ``samples``, how many were given to it, each
            with the weight that it had.
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
    run.place(student)
    hears_features = route.router == "learned"
    task = Routing(
        student,
        build_router(run, route, student, experts),
        run.target,
        experts,
        1 if samples.dense else len(samples.classes),
        route,
        samples.ignored_label,
        Observer(run.target, student, (), samples) if hears_features else None,
    )
    run.place(task.trainable)
    tables = {SPECIALISTS: logits_of_split(run, panel, table, "train")} if len(table) else {}
    asked = None if len(table) else {SPECIALISTS: panel.frozen()}
    train = run.batches(
        "train", [run.target], route.batch_size, shuffle="route", frozen=asked, tables=tables
    )
    valid = run.batches("valid", [run.target], route.batch_size)
    run.seed_noise("route")
    return task, Stage("route", task, train, valid, route, SELECTION)


def train_student(
    run: Run, student: nn.Module, panel: Panel, table: pd.DataFrame, route: Route
) -> Distilled:
    """Distil the panel into the student, sample by sample from the specialists that it hears.

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


def build_router(run: Run, route: Route, student: nn.Module, specialists: int) -> nn.Module:
    """A new router to `specialists` preferences."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(run.seed, "router"))
        kind, arguments = router_class(run, route, student)
        return kind(**arguments, specialists=specialists)


def router_class(
    run: Run, route: Route, student: nn.Module
) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of a router, and what it is called with beside the number of specialists."""
    if route.router == "hard":
        kind = DenseRouter if run.samples.dense else ClassRouter
        return kind, {"classes": len(run.samples.classes)}
    if route.router == "learned":
        embedding = Observer(run.target, student, (), run.samples).dry(run.samples).embedding
        return FeatureRouter, {"width": embedding.shape[1]}
    return UniformRouter, {}


def _given_table(run: Run, panel: Panel, given: list[Tensor]) -> pd.DataFrame:
    classes = ("all",) if run.samples.dense else run.samples.classes
    table = pd.DataFrame(
        torch.stack(given).flatten().numpy(),
        index=pd.MultiIndex.from_product(
            [range(len(given)), classes, panel.names], names=["epoch", "class", "specialist"]
        ),
        columns=["samples"],
    )
    return table.reset_index()
