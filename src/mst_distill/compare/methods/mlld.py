"""MLLD: logits agree for every sample, for every pair of samples and for every pair of classes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from mst_distill.compare.context import ANY, TrialContext
from mst_distill.compare.method import Distilling
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Those of the authors' code for CIFAR-100."""


class MLLD(Distilling):
    """Terms: instance KD, ||P_T P_T' - P_S P_S'||^2 / B and ||P_T' P_T - P_S' P_S||^2 / C.

    Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023, equations 3 to 10, each averaged
    over the temperatures; P are the probabilities of a batch, (B, C). The authors' code adds the
    terms of the temperatures up and gives cross-entropy the weight 0.1. It trains on two augmented
    views and drops samples of which the teacher is unsure; here all samples count.

    Args:
        context: The student, the teacher and the batches.
        weight: As in `Distilling`.
        summed: Whether the terms of the temperatures are added up.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY
    dense = False

    def __init__(
        self, context: TrialContext, weight: float | None = None, summed: bool = False
    ) -> None:
        super().__init__(context, weight)
        self._factor = len(TEMPERATURES) if summed else 1

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``instance``, ``batch`` and ``class``."""
        student_logits, teacher_logits = student.logits, teacher.logits
        levels = [
            level_losses(student_logits, teacher_logits, temperature)
            for temperature in TEMPERATURES
        ]
        return dict(
            zip(
                ("instance", "batch", "class"),
                self._factor * torch.stack(levels).mean(dim=0),
                strict=True,
            )
        )


def level_losses(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the losses of the three levels at one temperature, ``(B, C)`` each to ``(3,)``."""
    p_student, p_teacher = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    samples, classes = p_student.shape
    return torch.stack(
        [
            distillation(student, teacher, temperature).mean(),
            (p_teacher @ p_teacher.T - p_student @ p_student.T).square().sum() / samples,
            (p_teacher.T @ p_teacher - p_student.T @ p_student).square().sum() / classes,
        ]
    )
