"""Stage 3, dynamic distillation: L3 = w_task CE(S) + w_kd sum_e v_e KD(S <- e) + w_lb LB(c).

A router selects specialists for every sample, and the student learns from them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.metric import Terms
from mst_distill.mst.ensemble import SPECIALISTS, SpecialistEnsemble, logits_for_training
from mst_distill.mst.features import FeatureExtractor, ModelOutput
from mst_distill.mst.gating import (
    RoutingWeights,
    among,
    is_correct,
    routing_weights,
    teacher_quality,
)
from mst_distill.mst.losses import (
    at_least_float32,
    balance_cv,
    balance_kl,
    both,
    distillation_per_pixel,
    mean_over,
    or_zero,
    over_pixels,
    without_label,
)
from mst_distill.mst.router import ClassRouter, DenseRouter, FeatureRouter, UniformRouter
from mst_distill.mst.supervision import Supervision, supervision_of
from mst_distill.parameters import Route
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch, Inputs
from mst_distill.training.loop import FitResult, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream, seeded
from mst_distill.training.selection import criteria
from mst_distill.training.task import Task


@dataclass
class Weights:
    """The weights of the loss terms that change from epoch to epoch.

    Attributes:
        kd: w_kd.
        balance: w_lb.
    """

    kd: float
    balance: float

    def decay(self, epoch: int, route: Route) -> None:
        """Multiply w_lb by 0.9 every 10 epochs, and halve w_kd every 30.

        With ``halvings``, w_kd is halved after each of these shares of the epochs instead. With
        ``early_decay``, as in the released implementation, the count is behind by one: the weights
        change after the epochs 0, 10, ... and 0, 30, ..., and otherwise once 10, 20, ... and 30,
        60, ... epochs are done.

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
    """L3 = w_task CE(S) + w_kd sum_e v_e KD(S <- e) + w_lb LB(c) + w_r CE(r, c), sample means.

    The router ``hard`` is the paper's dynamic distillation, with w_r = 0: c = softmax(G(S(x))), and
    v_e = 1 / k for the k specialists of largest c. The selection is discrete, so that KD gives the
    router no gradient: it learns from LB alone, whose gradient reaches the student too.

    The router ``learned`` is trained towards the specialists with the smallest cross-entropy, r =
    softmax(-CE_e), and v = c without gradient. The router ``uniform`` has v_e = 1 / E and is not
    trained. If ``gated``, v_e = 0 for specialists that are wrong on the sample, and the other v are
    rescaled to sum to 1; with dense labels each pixel has its own v. KD and LB are means over all
    samples, CE(S) and CE(r, c) over those with a label. On a sample without a label no specialist
    counts as wrong.

    If samples lack modalities of teachers, specialists are selected for a sample among those that
    can see it, and v_e = 0 for the others. KD and CE(r, c) are then means over the samples that a
    specialist can see. LB counts all samples, because c follows from the student alone.

    A batch carries the target's modality and, computed without gradient, the specialists' logits.

    Args:
        student: The target's network after stage 1.
        router: From the student's output to E logits.
        extract: Inputs to the student's output, with the embedding if the router needs it.
        ensemble: The specialists.
        load_shape: Rows and columns of the table `load`: C (1 if labels are dense) and E.
        route: Weights, k and the switches.
        supervision: The loss on labels, and the metrics.

    Attributes:
        load: For every finished epoch ``(C, E)``: the number of training samples of each class that
            each specialist was selected for, weighted with v.
    """

    def __init__(
        self,
        student: nn.Module,
        router: nn.Module,
        extract: Callable[[Inputs], ModelOutput],
        ensemble: SpecialistEnsemble,
        load_shape: tuple[int, int],
        route: Route,
        supervision: Supervision,
    ) -> None:
        self.student = student
        self.router = router
        self.trainable = nn.ModuleDict({"student": student, "router": router})
        self.weights = Weights(route.kd_weight, route.balance_weight)
        self._extract = extract
        self._ensemble = ensemble
        self._load_shape = load_shape
        self._route = route
        self._supervision = supervision
        self._ignored = supervision.ignored
        self._load: Tensor | None = None
        self.load: list[Tensor] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce``, ``kd``, for a trained router ``balance`` and ``merit`` (CE(r, c)), and ``loss``.

        All terms but ``loss`` are unweighted.
        """
        student = self._extract(batch.inputs)
        specialists, seen = self._ensemble.logits_in(batch), self._ensemble.seen_in(batch)
        specialists = or_zero(specialists, seen)
        router_logits = at_least_float32(self.router(student))
        routing = self.weigh(among(router_logits, seen), seen)
        if self._route.gated:
            routing = routing.only(is_correct(specialists, batch.label, self._ignored))
        self._add_load(routing, batch.label)
        distilled = None if seen is None else seen.any(dim=1)
        terms = {
            "ce": self._supervision.loss(student.logits, batch.label),
            "kd": self._distil(student.logits, specialists, routing, distilled),
        }
        weighted = [self._route.task_weight * terms["ce"], self.weights.kd * terms["kd"]]
        if self._route.trains_router:
            terms["balance"] = self._balance(router_logits)
            weighted.append(self.weights.balance * terms["balance"])
        if self._route.router == "learned":
            quality = teacher_quality(specialists, batch.label, self._ignored, seen)
            merit = -(quality * router_logits.log_softmax(dim=1)).sum(dim=1)
            known = None
            if self._ignored is not None:
                known = ~without_label(batch.label, self._ignored)
            terms["merit"] = mean_over(merit, both(known, distilled))
            weighted.append(self._route.merit_weight * terms["merit"])
        return {"loss": sum(weighted[1:], weighted[0]), **terms}

    def validate(self, batch: Batch) -> dict[str, Tensor | Terms]:
        """The student's metrics."""
        return self._supervision.metrics(self._extract(batch.inputs).logits, batch.label)

    def weigh(self, probabilities: Tensor, seen: Tensor | None = None) -> RoutingWeights:
        """Select specialists by the router's probabilities c, ``(B, E)``, without gradient."""
        return routing_weights(probabilities.detach(), self._route.top_k, seen)

    def state(self) -> dict[str, Any]:
        """The weights of the terms and the load, of this epoch and of the finished ones."""
        now = None if self._load is None else self._load.clone()
        return {"weights": asdict(self.weights), "now": now, "load": self.load}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.weights = Weights(**state["weights"])
        now = state["now"]
        self._load, self.load = None if now is None else now.clone(), state["load"]

    def constants(self) -> tuple[float, ...]:
        """The weights of the terms."""
        return astuple(self.weights)

    def end_epoch(self, epoch: int) -> None:
        """Decay the weights and append the load of the epoch."""
        self.weights.decay(epoch, self._route)
        if self._load is not None:
            self.load.append(self._load.cpu().clone())
            self._load.zero_()

    def _distil(
        self, logits: Tensor, specialists: Tensor, routing: RoutingWeights, distilled: Tensor | None
    ) -> Tensor:
        rows = torch.arange(len(logits), device=logits.device)
        kd = []
        for index, weight in zip(
            routing.specialists.unbind(dim=1), routing.weights.unbind(dim=1), strict=True
        ):
            teacher = specialists[rows, index]
            each = distillation_per_pixel(logits, teacher, self._route.temperature)
            kd.append(mean_over(over_pixels(weight, each) * each, distilled))
        return sum(kd[1:], kd[0])

    def _balance(self, router_logits: Tensor) -> Tensor:
        if self._route.balance == "cv":
            return balance_cv(router_logits.softmax(dim=1))
        return balance_kl(router_logits.log_softmax(dim=1), self._route.scaled_balance)

    def _add_load(self, routing: RoutingWeights, label: Tensor) -> None:
        """Add a batch to the epoch's load; dense labels count as one class.

        Samples without a label belong to no class and are left out.
        """
        classes, specialists = self._load_shape
        weights = routing.weights.detach().double()
        if weights.dim() > 2:
            weights = weights.flatten(2).mean(dim=2)
        if label.dim() > 1:
            label = label.new_zeros(len(label))
        elif self._ignored is not None:
            weights = weights * (label != self._ignored)[:, None]
            label = label.where(label != self._ignored, 0)
        # Products instead of `bincount`, for which the host would wait, and which CUDA adds up in
        # an order of its own.
        by_sample = weights.new_zeros(len(label), specialists)
        by_sample.scatter_(1, routing.specialists, weights)
        load = F.one_hot(label, classes).double().T @ by_sample
        before = torch.zeros_like(load) if self._load is None else self._load.to(load.device)
        # In place, because a CUDA graph knows the tensor and not the attribute.
        self._load = before.add_(load)


@dataclass(frozen=True)
class StudentResult:
    """The result of stage 3.

    Attributes:
        students: Selection criterion to the student at the epoch that it selects.
        router: The router at the epoch that ``route.selection`` selects.
        fit: The history and the selected epochs.
        load: A row for each epoch, class and specialist; ``samples`` is the number of training
            samples that the specialist was selected for, each with its weight.
    """

    students: dict[str, nn.Module]
    router: nn.Module
    fit: FitResult
    load: pd.DataFrame


def prepare_student(
    run: Run, plan: Plan, student: nn.Module, ensemble: SpecialistEnsemble, table: pd.DataFrame
) -> tuple[Routing, Stage]:
    """Build the router and prepare the training of router and student.

    Args:
        run: The run.
        plan: All parameters.
        student: The target's network after stage 1; it is trained further.
        ensemble: The specialists, evaluated here if `table` has no rows or the samples have views.
        table: Their logits, from `tabulate_logits`.

    Raises:
        ValueError: The table belongs to other samples or specialists.
    """
    samples, route = run.samples, plan.route
    run.place(student)
    task = Routing(
        student,
        build_router(run, route, student, len(ensemble.names)),
        _extractor(run, route, student),
        ensemble,
        (1 if samples.dense else len(samples.classes), len(ensemble.names)),
        route,
        supervision_of(run),
    )
    run.place(task.trainable)
    logits = logits_for_training(run, ensemble, table)
    tables = {} if logits is None else {SPECIALISTS: logits}
    online = ensemble.frozen(apart=bool(samples.present)) if logits is None else None
    train = run.batches(
        "train",
        [run.target],
        route.batch_size,
        shuffle=Stream.ROUTE,
        frozen=online,
        tables=tables,
        labelled_share=plan.labelled_per_batch,
        needed=[run.target],
        in_views=True,
    )
    valid = run.batches("valid", [run.target], route.batch_size)
    run.seed_noise(Stream.ROUTE)
    return task, Stage("route", task, train, valid, route, criteria(run.metric.name))


def train_student(
    run: Run, plan: Plan, student: nn.Module, ensemble: SpecialistEnsemble, table: pd.DataFrame
) -> StudentResult:
    """Distil the specialists into the student; the arguments are those of `prepare_student`."""
    task, stage = prepare_student(run, plan, student, ensemble, table)
    done = fit(stage, run.runtime, run.checkpoint("route"), run.recipe)
    students = {}
    for criterion in stage.selections:
        task.trainable.load_state_dict(done.best[criterion].state)
        students[criterion] = copy.deepcopy(task.student).eval()
    task.trainable.load_state_dict(done.best[plan.selection].state)
    return StudentResult(students, task.router.eval(), done, _load_table(run, ensemble, task.load))


def build_router(run: Run, route: Route, student: nn.Module, specialists: int) -> nn.Module:
    """Build a new router to `specialists` logits."""
    with seeded(run.seed, Stream.ROUTER):
        kind, arguments = router_class(run, route, student)
        return kind(**arguments, specialists=specialists)


def router_class(
    run: Run, route: Route, student: nn.Module
) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class of the router, and its arguments without the number of specialists."""
    if route.router == "hard":
        kind = DenseRouter if run.samples.dense else ClassRouter
        return kind, {"classes": len(run.samples.classes)}
    if route.router == "learned":
        extractor = FeatureExtractor(run.target, student, (), run.samples)
        return FeatureRouter, {"width": extractor.dry(run.samples).embedding.shape[1]}
    return UniformRouter, {}


def _extractor(
    run: Run, route: Route, student: nn.Module
) -> FeatureExtractor | Callable[[Inputs], ModelOutput]:
    """Only a learned router reads more of the student than its logits."""
    if route.router == "learned":
        return FeatureExtractor(run.target, student, (), run.samples)
    return lambda inputs: ModelOutput(student(inputs[run.target]))


def _load_table(run: Run, ensemble: SpecialistEnsemble, load: list[Tensor]) -> pd.DataFrame:
    classes = ("all",) if run.samples.dense else run.samples.classes
    table = pd.DataFrame(
        torch.stack(load).flatten().numpy(),
        index=pd.MultiIndex.from_product(
            [range(len(load)), classes, ensemble.names], names=["epoch", "class", "specialist"]
        ),
        columns=["samples"],
    )
    return table.reset_index()
