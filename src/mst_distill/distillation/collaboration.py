"""Stage 1, collaborative initialisation: teachers and student learn together from one another."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor, nn

from mst_distill.distillation.losses import cross_entropy, distillation, validation_figures
from mst_distill.distillation.members import build_members, forward
from mst_distill.parameters import Masks, Members, Teachers
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Fit, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task


class Collaboration(Task):
    """L = sum_i CE(i) + sum_{i != j} KD(i <- j) over all members, all weights 1.

    The paper's stage of collaborative initialisation. Nothing is detached: both sides of every KD
    term receive its gradient.

    Args:
        members: Member name to net.
        temperature: tau of KD.
        ignored: The label that is no target, or None.
    """

    def __init__(
        self, members: dict[str, nn.Module], temperature: float, ignored: int | None
    ) -> None:
        self._members = members
        self.trainable = nn.ModuleList(members.values())
        self._temperature = temperature
        self._ignored = ignored

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce_NAME`` a member, ``kd`` (the sum over all ordered pairs) and their sum ``loss``."""
        logits = self._logits(batch)
        terms = {
            f"ce_{name}": cross_entropy(of, batch.label, self._ignored)
            for name, of in logits.items()
        }
        pairs = permutations(logits.values(), 2)
        if kd := [distillation(to, of, self._temperature).mean() for to, of in pairs]:
            terms["kd"] = torch.stack(kd).sum()
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """``accuracy_NAME`` and ``ce_NAME`` a member."""
        logits = self._logits(batch)
        return {
            f"{what}_{name}": figure
            for name, of in logits.items()
            for what, figure in validation_figures(of, batch.label, self._ignored).items()
        }

    def _logits(self, batch: Batch) -> dict[str, Tensor]:
        return {name: forward(net, name, batch.inputs) for name, net in self._members.items()}


def prepare_members(
    run: Run, members: Members, settings: Teachers, masks: Masks
) -> tuple[dict[str, nn.Module], Stage]:
    """Build the teachers and the student, check them, and lay out their training.

    Args:
        run: The run.
        members: The nets by import path.
        settings: Stage 1.
        masks: Stage 2, to see now whether its masks will fit.

    Returns:
        Member name to its net, the student last, and the stage that trains them.

    Raises:
        ValueError, TypeError: A member does not fit the samples.
    """
    nets = build_members(run, members, masks)
    task = Collaboration(nets, settings.temperature, run.samples.ignored_label)
    run.place(task.trainable)
    batches = run.train_and_valid("teachers", settings, run.modalities)
    run.seed_noise("teachers")
    return nets, Stage("teachers", task, *batches, settings, {"last": SELECTION["last"]})


def train_members(
    run: Run, members: Members, settings: Teachers, masks: Masks
) -> tuple[dict[str, nn.Module], Fit]:
    """Build the teachers and the student and train them together; see `prepare_members`.

    Returns:
        Member name to its net after the last epoch, the student last, and the fit.
    """
    nets, stage = prepare_members(run, members, settings, masks)
    return nets, fit(stage, run.runtime, run.checkpoint("teachers"))
