"""DIST: the student's probabilities need only correlate with the teacher's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mst_distill.compare.context import ANY
from mst_distill.compare.method import Distilling
from mst_distill.compare.methods.dkd import labelled_positions
from mst_distill.mst.features import ModelOutput
from mst_distill.training.batches import Batch

INTER, INTRA = 2.0, 2.0
"""Weights of the relations between the classes of a sample and between the samples of a class."""


class DIST(Distilling):
    """Terms: 2 tau^2 mean(1 - r(rows)) + 2 tau^2 mean(1 - r(columns)), r Pearson's correlation.

    Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    equations 6 to 9, of the probabilities at temperature tau. The authors have tau = 1 on ImageNet
    and 4 on CIFAR-100, where the factor 2 tau^2 is 32 and not 2, 16 times as large. With dense
    labels, each labelled pixel is a sample.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``inter`` and ``intra``, with their weights."""
        student_rows, teacher_rows, _ = labelled_positions(
            student.logits, teacher.logits, batch.label, self.context.supervision.ignored
        )
        temperature = self.temperature
        student_rows, teacher_rows = (
            (logits / temperature).softmax(dim=1) for logits in (student_rows, teacher_rows)
        )
        return {
            "inter": INTER * temperature**2 * pearson_distance(student_rows, teacher_rows),
            "intra": INTRA * temperature**2 * pearson_distance(student_rows.T, teacher_rows.T),
        }


def pearson_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over the rows of 1 - Pearson's r; rows ``(R, K)``, in [0, 2].

    A constant row has r = 0 and no gradient, since the gradient is unbounded near it. Without any
    values the loss is 0.
    """
    if not student.numel():
        return student.sum()
    student_rows, teacher_rows = (_centred(rows) for rows in (student, teacher))
    scale = (student_rows.norm(dim=1) * teacher_rows.norm(dim=1)).clamp(min=1e-8)
    return (1 - (student_rows * teacher_rows).sum(dim=1) / scale).mean()


def _centred(rows: Tensor) -> Tensor:
    """Subtract the rows' means; constant rows become exactly 0 in spite of rounding."""
    constant = (rows == rows[:, :1]).all(dim=1, keepdim=True)
    return (rows - rows.mean(dim=1, keepdim=True)).masked_fill(constant, 0.0)
