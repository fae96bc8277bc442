"""The control: the student's net without any teacher, on otherwise equal terms."""

from __future__ import annotations

import copy

import pandas as pd
from torch import Tensor, nn

from mst_distill.mst.losses import cross_entropy, validation_figures
from mst_distill.mst.networks import build_members, forward
from mst_distill.parameters import Masks, Members, Route, Teachers, Training
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Fit, Kept, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task


class Supervised(Task):
    """L = CE: a net that learns from labels alone.

    Args:
        net: The net.
        name: Of the member whose net it is.
        ignored: The label that is no target, or None.
    """

    def __init__(self, net: nn.Module, name: str, ignored: int | None) -> None:
        self.trainable = net
        self._name = name
        self._ignored = ignored

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the cross-entropy."""
        logits = forward(self.trainable, self._name, batch.inputs)
        return {"loss": cross_entropy(logits, batch.label, self._ignored)}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """``accuracy`` and ``ce``."""
        logits = forward(self.trainable, self._name, batch.inputs)
        return validation_figures(logits, batch.label, self._ignored)


def train_control(
    run: Run, members: Members, teachers: Teachers, masks: Masks, route: Route
) -> tuple[dict[str, nn.Module], Fit]:
    """Train the target's net by cross-entropy alone.

    It has the student's start weights, batches in the student's order, the student's epochs (those
    of stage 1, then with a fresh Adam those of stage 3), and goes on from stage 1 by the same rule.
    It is kept at the best of all these epochs, as whoever trains it alone would: selected in stage
    3 only, a net that stage 1 has overfitted would make any distillation look good.

    Args:
        run: The run.
        members: The nets by import path; all are checked, the target's is trained.
        teachers: Stage 1: the first epochs.
        masks: Stage 2, to see now whether its masks will fit.
        route: Stage 3: the others.

    Returns:
        Rule of selection to the net of the epoch that it prefers, and the fit: a history whose
        phases are told apart by the column ``phase``, and rows with epochs counted through both.
    """
    net = run.place(build_members(run, members, masks)[run.target])
    task = Supervised(net, run.target, run.samples.ignored_label)
    histories: list[pd.DataFrame] = []
    kept: dict[str, Kept] = {}
    phases: dict[str, Training] = {"teachers": teachers, "route": route}
    for phase, settings in phases.items():
        batches = run.train_and_valid(phase, settings, [run.target])
        run.seed_noise(phase)
        stage = Stage(f"control ({phase})", task, *batches, settings, SELECTION)
        done = fit(stage, run.runtime, run.checkpoint(f"control {phase}"))
        behind = sum(map(len, histories))
        histories.append(done.history.assign(phase=phase))
        for rule, best in done.kept.items():
            row = {**best.row, "epoch": best.row["epoch"] + behind}
            if rule not in kept or SELECTION[rule](row) > SELECTION[rule](kept[rule].row):
                kept[rule] = Kept(row, best.state)
        if phase == "teachers":
            net.load_state_dict(done.kept[teachers.keep].state)
    controls = {}
    for rule, best in kept.items():
        net.load_state_dict(best.state)
        controls[rule] = copy.deepcopy(net).eval()
    return controls, Fit(pd.concat(histories, ignore_index=True), kept)
