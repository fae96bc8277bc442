"""KD: the student learns from the teacher's softened probabilities."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mst_distill.compare.context import ANY
from mst_distill.compare.method import Distilling
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.losses import distillation
from mst_distill.training.batches import Batch


class KD(Distilling):
    """Term: tau^2 KL(softmax(T / tau) || softmax(S / tau)).

    Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2. The
    weights 0.1 of cross-entropy and 0.9 of KD, throughout and with tau = 4, are those of two usual
    comparisons on CIFAR-100, RepDistiller and mdistiller; on ImageNet, mdistiller has 0.5 and 0.5
    with tau = 1.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``kd``."""
        kd = distillation(student.logits, teacher.logits, self.temperature)
        return {"kd": kd.mean()}

    def constants(self) -> tuple[float, ...] | None:
        """Return the weight of the term; None for a class that is derived from this one."""
        return (self._weight,) if type(self) is KD else None
