"""Stage 1, collaborative initialisation: L1 = sum_i CE(i) + w sum over i != j of KD(i <- j).

Teachers and student are trained together and learn from one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

from torch import Tensor, nn

from mst_distill.metric import Terms
from mst_distill.mst.losses import (
    both,
    distillation,
    label_if,
    mean_over,
    total,
)
from mst_distill.mst.networks import build_members, forward_seen
from mst_distill.mst.supervision import Supervision, supervision_of
from mst_distill.parameters import MULTIMODAL
from mst_distill.plan import Plan
from mst_distill.training.batches import Batch
from mst_distill.training.loop import Criterion, FitResult, Row, Stage, fit
from mst_distill.training.run import Run
from mst_distill.training.seeding import Stream
from mst_distill.training.selection import criteria
from mst_distill.training.task import Task

PUBLISHED_PAIRS = 6
"""The ordered pairs of members with two modalities: the multimodal teacher and one net for each."""


class Collaboration(Task):
    """L1 = sum_i CE(i) + w sum over i != j of KD(i <- j), over all ordered pairs of members.

    This is the paper's collaborative initialisation, where w = 1. Nothing is detached: both sides
    of every KD term receive its gradient.

    The paper has two modalities. With M modalities there are M (M + 1) ordered pairs but only M + 1
    cross-entropies. If every pair kept its full weight, the teachers' probabilities would be far
    too even (with five modalities the calibration errors reach 32 %). From three modalities on,
    each pair therefore weighs 6 / (M (M + 1)) of w, so that all pairs together weigh as much as the
    six published ones.

    If samples lack modalities, CE(i) is the mean over the labelled samples that member i can see,
    and KD(i <- j) the mean over those that both members can see; the multimodal teacher sees those
    with all modalities. A member that can see fewer than two samples of a batch does not take part
    in it. Validation samples have all modalities.

    Args:
        members: Member name to network, the student last.
        temperature: tau of KD.
        supervision: The loss on labels, and the metrics.
        kd: ``mutual``, or ``none`` for no KD terms.
        kd_weight: w, the weight of a pair of three members.
    """

    def __init__(
        self,
        members: dict[str, nn.Module],
        temperature: float,
        supervision: Supervision,
        kd: str = "mutual",
        kd_weight: float = 1.0,
    ) -> None:
        self._mutual = kd == "mutual" and len(members) > 1
        pairs = len(members) * (len(members) - 1)
        self._kd_weight = kd_weight * (PUBLISHED_PAIRS / max(pairs, PUBLISHED_PAIRS))
        self._members = members
        self._modalities = tuple(name for name in members if name != MULTIMODAL)
        self.trainable = nn.ModuleList(members.values())
        self._temperature = temperature
        self._supervision = supervision

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``ce_NAME`` for each member, ``kd`` (the unweighted sum over all pairs), and ``loss``."""
        outputs = self._logits(batch)
        terms = {
            f"ce_{name}": self._supervision.loss(
                logits, label_if(batch.label, seen, self._supervision.ignored)
            )
            for name, (logits, seen) in outputs.items()
        }
        weighted = list(terms.values())
        if self._mutual:
            kd = [
                mean_over(distillation(to, of, self._temperature), both(to_seen, of_seen))
                for (to, to_seen), (of, of_seen) in permutations(outputs.values(), 2)
            ]
            terms["kd"] = total(kd, batch.label)
            weighted.append(self._kd_weight * terms["kd"])
        return {"loss": total(weighted, batch.label), **terms}

    def learner(self, weight: str) -> str:
        """The member that a weight belongs to."""
        position, *_ = weight.split(".")
        return f"member {list(self._members)[int(position)]!r}"

    def validate(self, batch: Batch) -> dict[str, Tensor | Terms]:
        """The metrics of the supervision for each member, as ``METRIC_NAME``."""
        return {
            f"{metric}_{name}": value
            for name, (of, _) in self._logits(batch).items()
            for metric, value in self._supervision.metrics(of, batch.label).items()
        }

    def _logits(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor | None]]:
        """Logits of the members that take part, and whether each can see a sample."""
        outputs = {
            name: forward_seen(net, name, batch, self._modalities)
            for name, net in self._members.items()
        }
        return {name: output for name, output in outputs.items() if output is not None}


def prepare_members(run: Run, plan: Plan) -> tuple[dict[str, nn.Module], Stage]:
    """Build and check the teachers and the student, and prepare their training.

    Returns:
        Member name to its network, the student last, and the stage that trains them.

    Raises:
        ValueError, TypeError: A member does not fit the samples, or cannot get the masks of
            stage 2.
    """
    settings = plan.teachers
    nets = build_members(run, plan)
    supervision = supervision_of(run, run.modalities)
    task = Collaboration(nets, settings.temperature, supervision, settings.kd, settings.kd_weight)
    run.place(task.trainable)
    share = plan.labelled_per_batch
    batches = run.train_and_valid(
        Stream.TEACHERS, settings, run.modalities, labelled_share=share, needed=()
    )
    run.seed_noise(Stream.TEACHERS)
    keep = criteria(run.metric.name)[plan.criterion_of(settings.keep)]
    selections = {name: _criterion_of(name, keep) for name in nets}
    if settings.keep == "last":
        selections = {"last": keep}  # the same epoch for all: one copy of the weights
    return nets, Stage("teachers", task, *batches, settings, selections)


def train_members(run: Run, plan: Plan) -> tuple[dict[str, nn.Module], FitResult]:
    """Build the teachers and the student and train them together; see `prepare_members`.

    Returns:
        Member name to its network at the selected epoch, the student last, and the fit.

    Raises:
        ValueError: As in `prepare_members`, or no batch had enough samples for a member.
    """
    nets, stage = prepare_members(run, plan)
    done = fit(stage, run.runtime, run.checkpoint("teachers"), run.recipe)
    for name in nets:
        if f"train_ce_{name}" not in done.history:
            raise ValueError(
                f"no batch of stage 1 had two samples that the member {name!r} can see, so that it "
                f"has learned nothing: raise teachers.batch_size"
            )
    for position, (name, net) in enumerate(nets.items()):
        if name in done.best:
            net.load_state_dict(_state_of_member(done.best[name].state, position))
    return nets, done


def row_of(done: FitResult, name: str) -> Row:
    """The row of the history at the epoch that is selected for the member `name`."""
    return done.best[name if name in done.best else "last"].row


def _criterion_of(name: str, keep: Criterion) -> Criterion:
    def rank(row: Row) -> tuple[float, ...]:
        suffix = f"_{name}"
        own = {
            of.removesuffix(suffix): value
            for of, value in row.items()
            if of.startswith("valid_") and of.endswith(suffix)
        }
        return keep({**row, **own})

    return rank


def _state_of_member(state: Mapping[str, Tensor], position: int) -> dict[str, Tensor]:
    prefix = f"{position}."
    return {n.removeprefix(prefix): of for n, of in state.items() if n.startswith(prefix)}
