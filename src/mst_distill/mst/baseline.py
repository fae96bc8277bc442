"""The baseline: the student's network trained without a teacher, on otherwise equal terms."""

from __future__ import annotations

import copy

import pandas as pd
from torch import Tensor, nn

from mst_distill.metric import Terms
from mst_distill.mst.losses import total
from mst_distill.mst.networks import build_members, forward
from mst_distill.mst.supervision import Supervision, supervision_of
from mst_distill.parameters import MULTIMODAL, Training
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.loop import BestEpoch, FitResult, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream
from mst_distill.training.selection import criteria
from mst_distill.training.task import Task


class Supervised(Task):
    """L = CE: a network that learns from labels alone, of the samples that it can see.

    Args:
        net: The network.
        name: The member that it belongs to. The samples of the multimodal teacher must have all
            modalities.
        supervision: The loss on labels, and the metrics.
    """

    def __init__(self, net: nn.Module, name: str, supervision: Supervision) -> None:
        self.trainable = net
        self._name = name
        self._modalities = () if name == MULTIMODAL else (name,)
        self._supervision = supervision

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the cross-entropy."""
        if (found := batch.having_two(self._modalities)) is None:
            return {"loss": total((), batch.label)}
        seen, _ = found
        logits = forward(self.trainable, self._name, seen.inputs)
        return {"loss": self._supervision.loss(logits, seen.label)}

    def constants(self) -> tuple[float, ...]:
        """A step depends on no changing number."""
        return ()

    def validate(self, batch: Batch) -> dict[str, Tensor | Terms]:
        """The metrics of the net."""
        logits = forward(self.trainable, self._name, batch.inputs)
        return self._supervision.metrics(logits, batch.label)


def train_baseline(run: Run, plan: Plan) -> tuple[dict[str, nn.Module], FitResult]:
    """Train the target's network by cross-entropy alone.

    It has the student's start weights, the student's order of batches and the student's epochs:
    those of stage 1 and then, with a new Adam, those of stage 3. If some training samples have no
    label, its batches have those with a label alone, and an epoch has as many steps. So it has if
    some lack the target, of which it learns nothing. It enters the second phase with the weights of
    the epoch that ``teachers.keep`` selects.

    The best epoch is taken from both phases, as anyone would who trains this network without
    teachers. If it were taken from the epochs of stage 3 only, a network that overfits in stage 1
    would make any distillation look good. The baseline of `compare` is another protocol: one
    training without a break, see `compare.methods.baseline`.

    Returns:
        Selection criterion to the network at the epoch that it selects, and the fit. The history
        has the column ``phase``; the rows of the selected epochs count epochs through both phases.
    """
    net = run.place(build_members(run, plan)[run.target])
    task = Supervised(net, run.target, supervision_of(run))
    selections = criteria(run.metric.name)
    histories: list[pd.DataFrame] = []
    best: dict[str, BestEpoch] = {}
    phases: dict[Stream, Training] = {Stream.TEACHERS: plan.teachers, Stream.ROUTE: plan.route}
    for phase, settings in phases.items():
        # The batches of stage 1 have samples without the target too.
        needed = () if phase == Stream.TEACHERS else None
        batches = run.train_and_valid(
            phase, settings, [run.target], labelled_share=1, needed=needed
        )
        run.seed_noise(phase)
        stage = Stage(f"baseline ({phase})", task, *batches, settings, selections)
        done = fit(stage, run.runtime, run.checkpoint(f"baseline {phase}"), run.recipe)
        earlier = sum(map(len, histories))
        histories.append(done.history.assign(phase=str(phase)))
        for criterion, of_phase in done.best.items():
            row = {**of_phase.row, "epoch": of_phase.row["epoch"] + earlier}
            rank = selections[criterion]
            if criterion not in best or rank(row) > rank(best[criterion].row):
                best[criterion] = BestEpoch(row, of_phase.state)
        if phase == Stream.TEACHERS:
            net.load_state_dict(done.best[plan.criterion_of(plan.teachers.keep)].state)
    baselines = {}
    for criterion, epoch in best.items():
        net.load_state_dict(epoch.state)
        baselines[criterion] = copy.deepcopy(net).eval()
    return baselines, FitResult(pd.concat(histories, ignore_index=True), best)
