"""Finished runs on small samples, as `diagnose` finds them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from torch import nn

from mst_distill.diagnose.drift import Viewers
from mst_distill.diagnose.evaluated_models import Company
from mst_distill.diagnose.knowledge_sources import Source, sources_of
from mst_distill.diagnose.prediction_matrix import Outcomes
from mst_distill.mst.ensemble import Panel, assemble_panel, tabulate_logits
from mst_distill.mst.features import Observer
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import Distilled, train_student
from mst_distill.parameters import Members
from mst_distill.training.run import Run
from toy_runs import MASKS, TEACHERS, make_run, route
from toys import precision_now


@dataclass(frozen=True)
class Toy:
    """A run after all its stages."""

    run: Run
    members: Members
    nets: dict[str, nn.Module]
    panel: Panel
    table: pd.DataFrame
    done: Distilled

    @property
    def teachers(self) -> dict[str, nn.Module]:
        return {name: net for name, net in self.nets.items() if name != self.run.target}

    @property
    def first(self) -> nn.Module:
        """The student after stage 1."""
        return self.nets[self.run.target]

    @property
    def student(self) -> nn.Module:
        return self.done.students["accuracy"]

    @property
    def observer(self) -> Observer:
        return Observer(self.run.target, self.student, (), self.run.samples)

    @property
    def sources(self) -> list[Source]:
        return sources_of(self.run, self.teachers, self.panel)

    @property
    def viewers(self) -> Viewers:
        return Viewers(self.student, self.teachers, self.sources)

    def company(self, chosen: int = 1, **students: nn.Module) -> Company:
        return Company(
            teachers=self.teachers,
            panel=self.panel,
            target=self.run.target,
            students={"student": self.student, "control": self.first, **students},
            observer=self.observer,
            router=self.done.router,
            picked=chosen,
        )


def finished(kind: str, **runtime: str) -> Toy:
    """Train all stages of one of the `KINDS`; the nets must be left as they are."""
    return _finished(kind, precision_now(), **runtime)


@cache
def _finished(kind: str, _precision: str, **runtime: str) -> Toy:
    run, members = make_run(kind, **runtime)
    nets, _ = train_members(run, members, TEACHERS, MASKS)
    teachers = {name: net for name, net in nets.items() if name != run.target}
    student = nets[run.target]
    masks, _ = train_masks(run, teachers, student, members, MASKS)
    panel = assemble_panel(run, teachers, masks, members)
    table = tabulate_logits(run, panel, 8)
    done = train_student(run, copy.deepcopy(student), panel, table, route())
    return Toy(run, members, nets, panel, table, done)


def outcomes_of(
    correct: dict[str, list[int] | np.ndarray],
    labels: list[int] | np.ndarray | None = None,
    judged: list[int] | np.ndarray | None = None,
    nll: dict[str, list[float] | np.ndarray] | None = None,
) -> Outcomes:
    """Outcomes of models by name, about the samples s0, s1, ..."""
    columns = [np.asarray(values, dtype=float) for values in correct.values()]
    count = len(columns[0])
    costs = nll or {model: np.ones(count) for model in correct}
    return Outcomes(
        tuple(correct),
        np.array([f"s{row}" for row in range(count)]),
        np.zeros(count, dtype=int) if labels is None else np.asarray(labels),
        np.ones(count) if judged is None else np.asarray(judged, dtype=float),
        np.stack(columns, axis=1),
        np.stack([np.asarray(costs[model], dtype=float) for model in correct], axis=1),
    )
