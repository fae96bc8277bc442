"""Finished runs on small samples, as `diagnose` reads them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from torch import nn

from mst_distill.diagnose.drift import AttributedModels
from mst_distill.diagnose.evaluated_models import EvaluatedMixtures
from mst_distill.diagnose.knowledge_sources import Source, sources_of
from mst_distill.diagnose.prediction_matrix import PredictionMatrix
from mst_distill.mst.ensemble import SpecialistEnsemble, assemble_ensemble, tabulate_logits
from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.stage1_teachers import train_members
from mst_distill.mst.stage2_masks import train_masks
from mst_distill.mst.stage3_route import StudentResult, train_student
from mst_distill.plan import Plan
from mst_distill.training.run import Run
from toy_runs import make_run
from toys import precision_now


@dataclass(frozen=True)
class Toy:
    """A run after all its stages."""

    run: Run
    plan: Plan
    nets: dict[str, nn.Module]
    ensemble: SpecialistEnsemble
    table: pd.DataFrame
    result: StudentResult

    @property
    def teachers(self) -> dict[str, nn.Module]:
        return {name: net for name, net in self.nets.items() if name != self.run.target}

    @property
    def initial_student(self) -> nn.Module:
        """The student after stage 1."""
        return self.nets[self.run.target]

    @property
    def student(self) -> nn.Module:
        return self.result.students["accuracy"]

    @property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor(self.run.target, self.student, (), self.run.samples)

    @property
    def sources(self) -> list[Source]:
        return sources_of(self.ensemble)

    @property
    def attributed_models(self) -> AttributedModels:
        return AttributedModels(self.student, self.teachers, self.sources)

    def models(self, top_k: int = 1, **students: nn.Module) -> EvaluatedMixtures:
        return EvaluatedMixtures(
            teachers=self.teachers,
            ensemble=self.ensemble,
            target=self.run.target,
            students={"student": self.student, "baseline": self.initial_student, **students},
            extractor=self.extractor,
            router=self.result.router,
            top_k=top_k,
        )


def finished(kind: str, **runtime: str) -> Toy:
    """Train all stages of one of the `KINDS`; callers must not change the nets."""
    return _finished(kind, precision_now(), **runtime)


@cache
def _finished(kind: str, _precision: str, **runtime: str) -> Toy:
    run, plan = make_run(kind, **runtime)
    nets, _ = train_members(run, plan)
    masks, _ = train_masks(run, plan, nets)
    ensemble = assemble_ensemble(run, plan, nets, masks)
    table = tabulate_logits(run, ensemble, 8)
    result = train_student(run, plan, copy.deepcopy(nets[run.target]), ensemble, table)
    return Toy(run, plan, nets, ensemble, table, result)


def matrix_of(
    correct: dict[str, list[int] | np.ndarray],
    labels: list[int] | np.ndarray | None = None,
    labelled: list[int] | np.ndarray | None = None,
    nll: dict[str, list[float] | np.ndarray] | None = None,
    groups: list[str] | None = None,
) -> PredictionMatrix:
    """Build a matrix from the outcomes of models by name, for the samples s0, s1, ..."""
    columns = [np.asarray(values, dtype=float) for values in correct.values()]
    count = len(columns[0])
    losses = nll or {model: np.ones(count) for model in correct}
    names = np.array([f"s{row}" for row in range(count)])
    return PredictionMatrix(
        tuple(correct),
        names,
        np.zeros(count, dtype=int) if labels is None else np.asarray(labels),
        np.ones(count) if labelled is None else np.asarray(labelled, dtype=float),
        np.stack(columns, axis=1),
        np.stack([np.asarray(losses[model], dtype=float) for model in correct], axis=1),
        names if groups is None else np.asarray(groups),
    )
