"""Paths: the student is distilled from one fixed source, each in its turn, with no router."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from torch import Tensor, nn

from mst_distill.diagnose.knowledge_sources import Source
from mst_distill.mst.ensemble import Panel, logits_of_split
from mst_distill.mst.gating import right
from mst_distill.mst.losses import cross_entropy, distillation_by_place, validation_figures
from mst_distill.mst.stage3_route import Weights
from mst_distill.parameters import Route
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Row, Rule, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task

SOURCE = "source"
"""The name under which a batch carries the source's logits."""


class FixedPath(Task):
    """L = w_task CE(S) + w_kd KD(S <- source): stage 3 if the router always picked the same one.

    There is no router, and so no term that keeps its load even; w_kd falls as in stage 3, and where
    stage 3 is gated nothing is learned from a source that is wrong.

    A batch carries the target's modality and, frozen, the source's logits.

    Args:
        student: The target's net, going on from stage 1.
        target: Its modality.
        route: Weights, temperature and the switch of their decay.
        ignored: The label that is no target, or None.
    """

    def __init__(self, student: nn.Module, target: str, route: Route, ignored: int | None) -> None:
        self.trainable = student
        self.weights = Weights(route.kd_weight, balance=0.0)
        self._target = target
        self._route = route
        self._ignored = ignored

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce`` and ``kd``, unweighted, and the weighted sum ``loss``."""
        logits = self.trainable(batch.inputs[self._target])
        (said,) = batch.frozen[SOURCE]
        ce = cross_entropy(logits, batch.label, self._ignored)
        each = distillation_by_place(logits, said, self._route.temperature)
        if self._route.gated:
            each = each * right(said[:, None], batch.label, self._ignored)[:, 0]
        kd = each.mean()
        return {"loss": self._route.task_weight * ce + self.weights.kd * kd, "ce": ce, "kd": kd}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """The student's ``accuracy`` and ``ce``."""
        logits = self.trainable(batch.inputs[self._target])
        return validation_figures(logits, batch.label, self._ignored)

    def state(self) -> dict[str, Any]:
        """The weights of the terms."""
        return {"weights": asdict(self.weights)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.weights = Weights(**state["weights"])

    def end_epoch(self, epoch: int) -> None:
        """Let the weights fall."""
        self.weights.decay(epoch, self._route)


@dataclass(frozen=True)
class Path:
    """Where a path led.

    Attributes:
        student: The net of the epoch that the run's rule of selection prefers.
        row: That epoch's figures.
    """

    student: nn.Module
    row: Row


def train_paths(
    run: Run,
    student: nn.Module,
    sources: Sequence[Source],
    panel: Panel,
    table: pd.DataFrame,
    route: Route,
) -> dict[str, Path]:
    """Distil every source by itself into the student that stage 3 begins with.

    Batches, their order, epochs and selection are those of stage 3.

    Args:
        run: The run.
        student: The target's net; left as it is.
        sources: Whom to distil.
        panel: The specialists, as the table has them.
        table: Their logits from `tabulate_logits`; without rows they are asked like the teachers.
        route: Stage 3.

    Returns:
        The source's title to its path.
    """
    known: dict[str, Tensor] = {}
    if len(table):
        logits = logits_of_split(run, panel, table, "train")
        known = dict(zip(panel.names, logits.unbind(dim=1), strict=True))
    return {
        source.title: _train_path(run, student, source, known.get(source.title), route)
        for source in sources
    }


def _train_path(
    run: Run, student: nn.Module, source: Source, said: Tensor | None, route: Route
) -> Path:
    name = f"path {source.title}"
    net = run.place(copy.deepcopy(student))
    task = FixedPath(net, run.target, route, run.samples.ignored_label)
    train = run.batches(
        "train",
        [run.target],
        route.batch_size,
        shuffle="route",
        frozen={SOURCE: source.frozen()} if said is None else None,
        tables=None if said is None else {SOURCE: said},
    )
    valid = run.batches("valid", [run.target], route.batch_size)
    run.seed_noise("route")
    rules: dict[str, Rule] = {route.selection: SELECTION[route.selection]}
    stage = Stage(name, task, train, valid, route, rules)
    kept = fit(stage, run.runtime, run.checkpoint(name)).kept[route.selection]
    net.load_state_dict(kept.state)
    return Path(net.eval(), kept.row)
