"""Stage 1, collaborative initialisation: teachers and student learn together from one another."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import torch
from torch import Tensor, nn

from mst_distill.mst.losses import cross_entropy, distillation, validation_figures
from mst_distill.mst.networks import build_members, forward
from mst_distill.parameters import Masks, Members, Teachers
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Fit, Row, Rule, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.selection import SELECTION
from mst_distill.training.task import Task

PUBLISHED_PAIRS = 6
"""Ordered pairs of members with two modalities: the multimodal teacher and a net of each."""


class Collaboration(Task):
    """L = sum_i CE(i) + w sum over i != j of KD(i <- j): all ordered pairs of members.

    This is the paper's stage of collaborative initialisation, where w = 1. Nothing is detached:
    both sides of every KD term receive its gradient.

    The paper has two modalities. With M of them there are M (M + 1) ordered pairs against M + 1
    cross-entropies, and with each pair at full weight five modalities leave teachers whose
    probabilities are far too even (calibration errors of 32 %). So all ordered pairs together weigh
    as much as the published six: each w 6 / (M (M + 1)) from three modalities on.

    Args:
        members: Member name to net, the student last.
        temperature: tau of KD.
        ignored: The label that is no target, or None.
        kd: ``mutual``, or ``none``: no KD terms.
        kd_weight: w, of a pair of three members.
    """

    def __init__(
        self,
        members: dict[str, nn.Module],
        temperature: float,
        ignored: int | None,
        kd: str = "mutual",
        kd_weight: float = 1.0,
    ) -> None:
        self._mutual = kd == "mutual" and len(members) > 1
        pairs = len(members) * (len(members) - 1)
        self._kd_weight = kd_weight * (PUBLISHED_PAIRS / max(pairs, PUBLISHED_PAIRS))
        self._members = members
        self.trainable = nn.ModuleList(members.values())
        self._temperature = temperature
        self._ignored = ignored

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce_NAME`` a member, ``kd`` (the sum over all pairs), unweighted, and ``loss``."""
        logits = self._logits(batch)
        terms = {
            f"ce_{name}": cross_entropy(of, batch.label, self._ignored)
            for name, of in logits.items()
        }
        weighted = list(terms.values())
        if self._mutual:
            pairs = permutations(logits.values(), 2)
            kd = [distillation(to, of, self._temperature).mean() for to, of in pairs]
            terms["kd"] = torch.stack(kd).sum()
            weighted.append(self._kd_weight * terms["kd"])
        return {"loss": torch.stack(weighted).sum(), **terms}

    def learner(self, weight: str) -> str:
        """The member."""
        place, *_ = weight.split(".")
        return f"member {list(self._members)[int(place)]!r}"

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
    ignored = run.samples.ignored_label
    task = Collaboration(nets, settings.temperature, ignored, settings.kd, settings.kd_weight)
    run.place(task.trainable)
    batches = run.train_and_valid("teachers", settings, run.modalities)
    run.seed_noise("teachers")
    rules = {name: _rule_of(name, settings.keep) for name in nets}
    if settings.keep == "last":
        rules = {"last": SELECTION["last"]}  # of all at once: one copy of the weights
    return nets, Stage("teachers", task, *batches, settings, rules)


def train_members(
    run: Run, members: Members, settings: Teachers, masks: Masks
) -> tuple[dict[str, nn.Module], Fit]:
    """Build the teachers and the student and train them together; see `prepare_members`.

    Returns:
        Member name to its net of the epoch that is kept, the student last, and the fit.
    """
    nets, stage = prepare_members(run, members, settings, masks)
    done = fit(stage, run.runtime, run.checkpoint("teachers"))
    for place, (name, net) in enumerate(nets.items()):
        if name in done.kept:
            net.load_state_dict(_part(done.kept[name].state, f"{place}."))
    return nets, done


def row_of(done: Fit, name: str) -> Row:
    """The epoch of the member `name` that goes on."""
    return done.kept[name if name in done.kept else "last"].row


def _rule_of(name: str, keep: str) -> Rule:
    def rank(row: Row) -> tuple[float, ...]:
        own = {f"valid_{what}": row[f"valid_{what}_{name}"] for what in ("accuracy", "ce")}
        return SELECTION[keep]({**row, **own})

    return rank


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): of for n, of in state.items() if n.startswith(prefix)}
