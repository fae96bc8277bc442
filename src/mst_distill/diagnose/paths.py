"""Paths: one student for each source, distilled from that source alone, without a router."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from torch import Tensor, nn

from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.metric import Terms
from mst_distill.mst.ensemble import SpecialistEnsemble, logits_for_training
from mst_distill.mst.gating import is_correct
from mst_distill.mst.losses import (
    distillation_per_pixel,
    mean_over,
    or_zero,
)
from mst_distill.mst.stage3_route import Weights
from mst_distill.mst.supervision import Supervision, supervision_of
from mst_distill.parameters import Route, criterion_name
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Row, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream
from mst_distill.training.selection import criteria
from mst_distill.training.task import Task

SOURCE = "source"
"""Key of the source's logits in a batch."""


class FixedPath(Task):
    """L = w_task CE(S) + w_kd KD(S <- source), as in stage 3 with one source for all samples.

    There is no router, and so no load-balancing term. w_kd decays as in stage 3. If stage 3 is
    gated, KD is set to 0 wherever the source is wrong. If samples lack modalities, KD is the mean
    over those that the source can see.

    A batch contains the target modality and the frozen logits of the source.

    Args:
        student: The target's net after stage 1, which is trained further.
        target: The student's modality.
        reads: The modalities of the source.
        route: Settings of stage 3: weights and their decay, temperature, gating.
        supervision: The loss on labels, and the metrics.
    """

    def __init__(
        self,
        student: nn.Module,
        target: str,
        reads: Sequence[str],
        route: Route,
        supervision: Supervision,
    ) -> None:
        self.trainable = student
        self._reads = tuple(reads)
        self.weights = Weights(route.kd_weight, balance=0.0)
        self._target = target
        self._route = route
        self._supervision = supervision

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return ``ce`` and ``kd``, unweighted, and their weighted sum ``loss``."""
        logits = self.trainable(batch.inputs[self._target])
        seen = batch.seen(self._reads)
        source_logits = or_zero(batch.frozen[SOURCE][0], seen)
        ce = self._supervision.loss(logits, batch.label)
        each = distillation_per_pixel(logits, source_logits, self._route.temperature)
        if self._route.gated:
            ignored = self._supervision.ignored
            each = each * is_correct(source_logits[:, None], batch.label, ignored)[:, 0]
        kd = mean_over(each, seen)
        return {"loss": self._route.task_weight * ce + self.weights.kd * kd, "ce": ce, "kd": kd}

    def validate(self, batch: Batch) -> dict[str, Tensor | Terms]:
        """Return the student's metrics."""
        return self._supervision.metrics(self.trainable(batch.inputs[self._target]), batch.label)

    def state(self) -> dict[str, Any]:
        """Return the weights of the loss terms."""
        return {"weights": asdict(self.weights)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        self.weights = Weights(**state["weights"])

    def end_epoch(self, epoch: int) -> None:
        """Decay the weights."""
        self.weights.decay(epoch, self._route)


@dataclass(frozen=True)
class Path:
    """The result of a path.

    Attributes:
        student: The net of the epoch that the run's selection criterion selects.
        row: The metrics of that epoch.
    """

    student: nn.Module
    row: Row


def train_paths(
    run: Run,
    student: nn.Module,
    sources: Sequence[Source],
    ensemble: SpecialistEnsemble,
    table: pd.DataFrame,
    route: Route,
    labelled_per_batch: float,
) -> dict[str, Path]:
    """Distil each source alone into a copy of the student that stage 3 starts from.

    Batches, their order, the number of epochs and the selection are those of stage 3.

    Args:
        run: The run.
        student: The target's net after stage 1; it is not changed.
        sources: The sources to distil.
        ensemble: The specialists of the table.
        table: Logits of the specialists from `tabulate_logits`. If it has no rows, they are
            computed like those of the teachers.
        route: Settings of stage 3.
        labelled_per_batch: As in the plan.

    Returns:
        Source title to its path.
    """
    tabulated: dict[str, Tensor] = {}
    if (logits := logits_for_training(run, ensemble, table)) is not None:
        tabulated = dict(zip(ensemble.names, logits.unbind(dim=1), strict=True))
    return {
        source.title: _train_path(
            run, student, source, tabulated.get(source.title), route, labelled_per_batch
        )
        for source in sources
    }


def _train_path(
    run: Run,
    student: nn.Module,
    source: Source,
    logits: Tensor | None,
    route: Route,
    labelled_per_batch: float,
) -> Path:
    name = f"path {source.title}"
    net = run.place(copy.deepcopy(student))
    task = FixedPath(net, run.target, source.modalities, route, supervision_of(run))
    train = run.batches(
        "train",
        [run.target],
        route.batch_size,
        shuffle=Stream.ROUTE,
        frozen={SOURCE: source.frozen()} if logits is None else None,
        tables=None if logits is None else {SOURCE: logits},
        labelled_share=labelled_per_batch,
        needed=[run.target],
        in_views=True,
    )
    valid = run.batches("valid", [run.target], route.batch_size)
    run.seed_noise(Stream.ROUTE)
    selection = criterion_name(route.selection, run.metric.name)
    selections = {selection: criteria(run.metric.name)[selection]}
    stage = Stage(name, task, train, valid, route, selections)
    selected = fit(stage, run.runtime, run.checkpoint(name), run.recipe).best[selection]
    net.load_state_dict(selected.state)
    return Path(net.eval(), selected.row)
