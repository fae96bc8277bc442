"""CRD: a sample's two embeddings are near, those of samples of other classes far."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import Setup
from mst_distill.compare.method import Distilling
from mst_distill.data.samples import rows_of
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch

WIDTH = 128
"""Of both projections."""

NEGATIVES = 4096
"""Samples of other classes that every sample is held against."""

TEMPERATURE = 0.07
MOMENTUM = 0.5
"""How much of a memory's entry stays when its sample comes again."""


class CRD(Distilling):
    """Terms: -log h(t, s) - sum over the negatives of log(1 - h(t', s)), and with s' and t.

    Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 to
    19, with h = p / (p + N / M): M samples, N negatives, and p = e^(t.s / tau) / Z how likely s is
    among all that the memory holds of t. Z is summed over the whole memory at every step and held
    fast; the paper leaves it out, and its released code takes it from the first batch.
    """

    hears = "features"
    dense = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        samples = setup.run.samples
        own = pooled(setup.student.dry(samples).embedding).shape[1]
        other = pooled(setup.frozen_teacher.dry(samples).embedding).shape[1]
        self._of_student = self.learn("of_student", nn.Linear(own, WIDTH))
        self._of_teacher = self.learn("of_teacher", nn.Linear(other, WIDTH))
        rows = rows_of(setup.run.splits, "train")
        labels = torch.from_numpy(samples.labels[rows]).to(setup.run.device)
        self._negatives = Negatives(labels, setup.classes)
        memory = F.normalize(torch.randn(2, len(rows), WIDTH, device=setup.run.device), dim=2)
        self._student_memory, self._teacher_memory = memory

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``student`` with the teacher's memory, ``teacher`` with the student's."""
        own = F.normalize(self._of_student(pooled(student.embedding)), dim=1)
        other = F.normalize(self._of_teacher(pooled(teacher.embedding)), dim=1)
        picked = self._negatives.draw(batch.label, NEGATIVES)
        terms = {
            "student": contrast(own, batch.place, picked, self._teacher_memory),
            "teacher": contrast(other, batch.place, picked, self._student_memory),
        }
        self._student_memory = remember(self._student_memory, batch.place, own)
        self._teacher_memory = remember(self._teacher_memory, batch.place, other)
        return terms

    def state(self) -> dict[str, Any]:
        """The terms' weight and both memories."""
        memories = {"student": self._student_memory, "teacher": self._teacher_memory}
        return {**super().state(), **memories}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        super().load_state(state)
        self._student_memory = state["student"].to(self._student_memory.device)
        self._teacher_memory = state["teacher"].to(self._teacher_memory.device)


class Negatives:
    """Draws samples of other classes.

    Args:
        labels: ``(M,)`` of the training split.
        classes: C.

    Raises:
        ValueError: There is only one class.
    """

    def __init__(self, labels: Tensor, classes: int) -> None:
        if (labels == labels[0]).all():
            raise ValueError("CRD needs samples of at least two classes in the training split")
        self._by_class = labels.argsort(stable=True)
        self._count = torch.bincount(labels, minlength=classes)
        self._start = self._count.cumsum(0) - self._count

    def draw(self, label: Tensor, number: int) -> Tensor:
        """Places of `number` samples, with replacement, for each of the batch: ``(B, number)``."""
        others = (len(self._by_class) - self._count[label])[:, None]
        drawn = (torch.rand(len(label), number, device=label.device) * others).long()
        behind = drawn >= self._start[label][:, None]
        return self._by_class[drawn + behind * self._count[label][:, None]]


def contrast(anchor: Tensor, place: Tensor, negatives: Tensor, memory: Tensor) -> Tensor:
    """-log h of the positives minus the negatives' sum of log(1 - h), mean over the batch.

    Args:
        anchor: ``(B, D)``, of length 1.
        place: ``(B,)``, where the memory has the other net's projection of the same sample.
        negatives: ``(B, N)``, places of other samples.
        memory: ``(M, D)``, of length 1.
    """
    likeness = anchor @ memory.T / TEMPERATURE
    log_p = likeness - likeness.detach().logsumexp(dim=1, keepdim=True)
    against = math.log(negatives.shape[1] / len(memory))
    positive = F.softplus(against - log_p.gather(1, place[:, None]))
    negative = F.softplus(log_p.gather(1, negatives) - against)
    return (positive.sum() + negative.sum()) / len(anchor)


@torch.no_grad()
def remember(memory: Tensor, place: Tensor, projection: Tensor) -> Tensor:
    """A new memory, in which half of what was at `place` is now `projection`."""
    mixed = MOMENTUM * memory[place] + (1 - MOMENTUM) * projection
    return memory.index_copy(0, place, F.normalize(mixed, dim=1))
