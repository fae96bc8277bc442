"""MGDFR: the teacher speaks only through features that matter to the student's modality too."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.context import Setup, Taught
from mst_distill.compare.methods.dml import DML
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.features import Observed, Observer
from mst_distill.mst.networks import freeze
from mst_distill.training.batches import Inputs
from mst_distill.training.selection import SELECTION

PERMUTATIONS = 10
"""How often a channel is shuffled over a batch to see what it does."""

SILENCED = 0.75
"""The share of channels that is held at its mean: those that are the least modality-general."""


class MGDFR(KD):
    """KD from a teacher whose less modality-general channels are held at their mean.

    Xue, Gao, Ren, Zhao, "The Modality Focusing Hypothesis", ICLR 2023, algorithm 1. A teacher and a
    student learn together for the epochs of stage 1; a channel of the teacher's embedding is
    salient as far as shuffling it over a batch moves the teacher's logits away from that student's.
    Then a new student has KD for the trial's epochs. The distance is the squared one, which is the
    pair's loss; the algorithm's authors' code takes the absolute one and sets channels to 0. In the
    released code of the paper behind this project the channels are not in fact held.
    """

    @classmethod
    def teach(cls, setup: Setup) -> Taught:
        """Train the pair, rank the channels, distil into a new student."""
        setup.hears = "inputs"
        pair = Pair(setup)
        teacher = pair.peer
        last = {"last": SELECTION["last"]}
        prepared = setup.fit(pair, setup.recipe.teachers.epochs, rules=last, part="/pair")
        freeze([pair.student.net, teacher.net])
        batches, _ = setup.pool.batches(setup.teacher_name, "inputs", "compare/salience")
        held = hold(pair.student, teacher, (batch.inputs for batch in batches))
        setup.start_anew()
        setup.hear(lambda inputs: (teacher.finish(inputs, silenced(teacher(inputs), held)),))
        return setup.fit(cls(setup), setup.epochs).beside(prepared)


class Pair(DML):
    """L = CE(S) + CE(T) + MSE(S, T), neither side held fast."""

    def mutual(self, student: Tensor, peer: Tensor) -> dict[str, Tensor]:
        """``apart``, the mean squared difference of the logits."""
        return {"apart": F.mse_loss(student, peer)}


@torch.no_grad()
def hold(student: Observer, teacher: Observer, batches: Iterable[Inputs]) -> dict[int, float]:
    """Find the channels of the teacher's embedding that are to be held.

    Returns:
        Channel to its mean over the batches, for the `SILENCED` share of smallest salience.
    """
    moved, means, count = [], [], 0
    for inputs in batches:
        embedding = teacher(inputs).embedding
        size = len(embedding)
        count += size
        means.append(size * embedding.transpose(0, 1).flatten(1).mean(dim=1))
        moved.append(size * salience(student(inputs).logits, teacher, inputs, embedding))
    ranked = torch.stack(moved).sum(dim=0).argsort(stable=True).tolist()
    mean = (torch.stack(means).sum(dim=0) / count).tolist()
    return {channel: mean[channel] for channel in ranked[: int(SILENCED * len(ranked))]}


def silenced(observed: Observed, held: dict[int, float]) -> Tensor:
    """The embedding with the `held` channels at their means."""
    embedding = observed.embedding.clone()
    for channel, mean in held.items():
        embedding[:, channel] = mean
    return embedding


def salience(said: Tensor, teacher: Observer, inputs: Inputs, embedding: Tensor) -> Tensor:
    """Mean squared distance to the student's logits when a channel is shuffled, ``(channels,)``.

    Args:
        said: The student's logits.
        teacher: Frozen, in eval mode.
        inputs: Of the batch.
        embedding: The teacher's, ``(B, D)`` or ``(B, D, H, W)``.
    """
    moved = said.new_zeros(embedding.shape[1])
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(embedding)).to(embedding.device)
        for channel in range(embedding.shape[1]):
            shuffled = embedding.clone()
            shuffled[:, channel] = embedding[order, channel]
            moved[channel] += F.mse_loss(teacher.finish(inputs, shuffled), said)
    return moved / PERMUTATIONS
