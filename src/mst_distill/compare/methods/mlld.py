"""MLLD: logits agree for every sample, for every pair of samples and every pair of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from mst_distill.compare.method import Distilling
from mst_distill.mst.features import Observed
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


class MLLD(Distilling):
    """Terms: instance KD, ||P_T P_T' - P_S P_S'||^2 / B and ||P_T' P_T - P_S' P_S||^2 / C.

    Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023, equations 3 to 10, each averaged
    over the temperatures; P is a batch's (B, C) of probabilities. Its authors train on two
    augmented views and drop what the teacher is unsure of; here there is one view, and all counts.
    """

    dense = False

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``instance``, ``batch`` and ``class``."""
        own, other = student.logits, teacher.logits
        levels = [levels_at(own, other, temperature) for temperature in TEMPERATURES]
        return dict(
            zip(("instance", "batch", "class"), torch.stack(levels).mean(dim=0), strict=True)
        )


def levels_at(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The three levels' losses at one temperature, ``(B, C)`` each to ``(3,)``."""
    own, other = ((logits / temperature).softmax(dim=1) for logits in (student, teacher))
    samples, classes = own.shape
    return torch.stack(
        [
            distillation(student, teacher, temperature).mean(),
            (other @ other.T - own @ own.T).square().sum() / samples,
            (other.T @ other - own.T @ own).square().sum() / classes,
        ]
    )
