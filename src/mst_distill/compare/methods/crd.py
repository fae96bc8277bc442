"""CRD: draws the two embeddings of a sample together, and apart from those of other classes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Distilling
from mst_distill.data.samples import are_unlabelled
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.training.batches import Batch

WIDTH = 128
"""Width of both projections."""

NEGATIVES = 4096
"""Samples of other classes that are drawn for every sample."""

TEMPERATURE = 0.07
MOMENTUM = 0.5
"""Weight of the old entry when the memory of a sample is updated."""


class CRD(Distilling):
    """Terms: -log h(t, s) - sum over the negatives of log(1 - h(t', s)), and with s' and t.

    Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 to
    19, with h = p / (p + N / M): M samples, N negatives, and p = e^(t.s / tau) / Z, the probability
    of t given s among all entries of the memory. Z is summed over the whole memory at every step,
    without gradient; the paper leaves it out, and its released code takes it from the first batch.
    """

    needs_labels = True
    teacher_inputs = "features"
    dense = False

    def __init__(self, context: TrialContext) -> None:
        super().__init__(context)
        samples = context.run.samples
        student_width = context.student.dry(samples).embedding.shape[1]
        teacher_width = context.frozen_teacher.dry(samples).embedding.shape[1]
        self._project_student = self.add_trainable("of_student", nn.Linear(student_width, WIDTH))
        self._project_teacher = self.add_trainable("of_teacher", nn.Linear(teacher_width, WIDTH))
        device, rows = context.run.device, context.run.rows("train", [context.run.target])
        used = ~are_unlabelled(samples, context.run.splits)[rows]
        used &= samples.have(context.teacher_modalities)[rows]
        labels = torch.from_numpy(samples.labels[rows][used]).to(device)
        self._negatives = Negatives(labels, context.classes)
        # Drawn on the CPU, whose generator is seeded for the trial.
        memory = torch.randn(2, len(labels), WIDTH).to(device)
        self._student_memory, self._teacher_memory = F.normalize(memory, dim=2)
        # The memory has only the samples with a label that both nets can see; this is the place of
        # each of them in it.
        self._entry = torch.from_numpy(used.cumsum() - 1).to(device)

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``student``, with the teacher's memory, and ``teacher``, with the student's."""
        student_projection = F.normalize(self._project_student(pooled(student.embedding)), dim=1)
        teacher_projection = F.normalize(self._project_teacher(pooled(teacher.embedding)), dim=1)
        negatives = self._negatives.draw(batch.label, NEGATIVES)
        entry = self._entry[batch.place]
        terms = {
            "student": contrast(student_projection, entry, negatives, self._teacher_memory),
            "teacher": contrast(teacher_projection, entry, negatives, self._student_memory),
        }
        self._student_memory = update(self._student_memory, entry, student_projection)
        self._teacher_memory = update(self._teacher_memory, entry, teacher_projection)
        return terms

    def state(self) -> dict[str, Any]:
        """Return the weight of the terms and both memories."""
        memories = {"student": self._student_memory, "teacher": self._teacher_memory}
        return {**super().state(), **memories}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        super().load_state(state)
        self._student_memory = state["student"].to(self._student_memory.device)
        self._teacher_memory = state["teacher"].to(self._teacher_memory.device)


class Negatives:
    """Draws samples of other classes.

    Args:
        labels: ``(M,)``, of the training split.
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
        """Draw positions in the split, with replacement, ``(B,)`` to ``(B, number)``."""
        others = (len(self._by_class) - self._count[label])[:, None]
        drawn = (torch.rand(len(label), number, device=label.device) * others).long()
        # The samples are sorted by class: numbers from the own class on skip its block.
        skip = drawn >= self._start[label][:, None]
        return self._by_class[drawn + skip * self._count[label][:, None]]


def contrast(anchor: Tensor, positive: Tensor, negatives: Tensor, memory: Tensor) -> Tensor:
    """Compute -log h of the positive minus the negatives' sum of log(1 - h), mean over the batch.

    Args:
        anchor: ``(B, D)``, of length 1.
        positive: ``(B,)``, rows of `memory` with the other net's projection of the same samples.
        negatives: ``(B, N)``, rows of `memory` with projections of other samples.
        memory: ``(M, D)``, of length 1.
    """
    similarity = anchor @ memory.T / TEMPERATURE
    log_p = similarity - similarity.detach().logsumexp(dim=1, keepdim=True)
    log_prior = math.log(negatives.shape[1] / len(memory))
    positive_loss = F.softplus(log_prior - log_p.gather(1, positive[:, None]))
    negative_loss = F.softplus(log_p.gather(1, negatives) - log_prior)
    return (positive_loss.sum() + negative_loss.sum()) / len(anchor)


@torch.no_grad()
def update(memory: Tensor, rows: Tensor, projection: Tensor) -> Tensor:
    """Return a new memory with the normalised means of `memory` and `projection` in `rows`."""
    mixed = MOMENTUM * memory[rows] + (1 - MOMENTUM) * projection
    return memory.index_copy(0, rows, F.normalize(mixed, dim=1))
