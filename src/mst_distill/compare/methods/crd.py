"""CRD: draws the two embeddings of a sample together, and apart from those of other classes."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Distilling, check_at_least_0
from mst_distill.data.samples import are_unlabelled
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.training.batches import Batch

WIDTH = 128
"""Width of both projections, as in the authors' code for CIFAR-100."""

TEMPERATURE = 0.07
"""Tau, as in the authors' code for CIFAR-100."""

MOMENTUM = 0.5
"""Weight of the old entry when the memory of a sample is updated, as in the authors' code for
CIFAR-100."""


class CRD(Distilling):
    """Terms: -log h(t, s) - sum over the negatives of log(1 - h(t', s)), and with s' and t.

    Tian, Krishnan, Isola, "Contrastive Representation Distillation", ICLR 2020, equations 17 to
    19, with h = p / (p + N / M): M samples, N negatives, and p = e^(t.s / tau) / Z, the probability
    of t given s among all entries of the memory. Z is summed over the whole memory at every step,
    without gradient; the paper leaves it out, and its released code takes it from the first batch.
    On CIFAR-100, the authors draw 16,384 negatives for 50,000 samples, a share of 0.33, and give
    the terms the weight 0.8, and cross-entropy the weight 1.

    Args:
        context: The student, the teacher and the batches.
        weight: As in `Distilling`.
        negatives: N / M, the number of negatives as a share of the samples.
        constant_z: Whether Z is that of the first batch, estimated from its positives and negatives
            as in the released code.
    """

    needs_labels = True
    teacher_inputs = "features"
    dense = False

    def __init__(
        self,
        context: TrialContext,
        weight: float | None = None,
        negatives: float = 0.33,
        constant_z: bool = False,
    ) -> None:
        super().__init__(context, weight)
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
        self._number = max(1, round(negatives * len(labels)))
        self._constant_z = constant_z
        check_at_least_0(negatives=negatives)
        self._log_z: Tensor | None = None
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
        negatives = self._negatives.draw(batch.label, self._number)
        entry = self._entry[batch.place]
        both = (
            (student_projection, self._teacher_memory),
            (teacher_projection, self._student_memory),
        )
        if self._constant_z and self._log_z is None:
            self._log_z = torch.stack([estimate_z(a, entry, negatives, of) for a, of in both])
        log_z = (None, None) if self._log_z is None else self._log_z.unbind()
        terms = {
            name: contrast(anchor, entry, negatives, memory, z)
            for name, (anchor, memory), z in zip(("student", "teacher"), both, log_z, strict=True)
        }
        self._student_memory = update(self._student_memory, entry, student_projection)
        self._teacher_memory = update(self._teacher_memory, entry, teacher_projection)
        return terms

    def state(self) -> dict[str, Any]:
        """Return the weight of the terms, both memories and the constants Z."""
        memories = {"student": self._student_memory, "teacher": self._teacher_memory}
        return {**super().state(), **memories, "log_z": self._log_z}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        super().load_state(state)
        self._student_memory = state["student"].to(self._student_memory.device)
        self._teacher_memory = state["teacher"].to(self._teacher_memory.device)
        log_z = state["log_z"]
        self._log_z = None if log_z is None else log_z.to(self._teacher_memory.device)


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


def contrast(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor,
    memory: Tensor,
    log_z: Tensor | None = None,
) -> Tensor:
    """Compute -log h of the positive minus the negatives' sum of log(1 - h), mean over the batch.

    Args:
        anchor: ``(B, D)``, of length 1.
        positive: ``(B,)``, rows of `memory` with the other net's projection of the same samples.
        negatives: ``(B, N)``, rows of `memory` with projections of other samples.
        memory: ``(M, D)``, of length 1.
        log_z: The logarithm of Z; by default it is summed over the memory for each anchor.
    """
    similarity = anchor @ memory.T / TEMPERATURE
    if log_z is None:
        log_z = similarity.detach().logsumexp(dim=1, keepdim=True)
    log_p = similarity - log_z
    log_prior = math.log(negatives.shape[1] / len(memory))
    positive_loss = F.softplus(log_prior - log_p.gather(1, positive[:, None]))
    negative_loss = F.softplus(log_p.gather(1, negatives) - log_prior)
    return (positive_loss.sum() + negative_loss.sum()) / len(anchor)


@torch.no_grad()
def estimate_z(anchor: Tensor, positive: Tensor, negatives: Tensor, memory: Tensor) -> Tensor:
    """Estimate log Z of a batch: M times the mean over its positives and negatives, a scalar."""
    similarity = anchor @ memory.T / TEMPERATURE
    drawn = similarity.gather(1, torch.cat([positive[:, None], negatives], dim=1))
    return drawn.logsumexp(dim=(0, 1)) - math.log(drawn.numel()) + math.log(len(memory))


@torch.no_grad()
def update(memory: Tensor, rows: Tensor, projection: Tensor) -> Tensor:
    """Return a new memory with the normalised means of `memory` and `projection` in `rows`."""
    mixed = MOMENTUM * memory[rows] + (1 - MOMENTUM) * projection
    return memory.index_copy(0, rows, F.normalize(mixed, dim=1))
