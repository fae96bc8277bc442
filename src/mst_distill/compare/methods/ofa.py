"""OFA: every stage of the student, projected to logits, learns from the teacher's logits."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import ANY, TrialContext
from mst_distill.compare.method import Distilling, check_at_least_0
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.training.batches import Batch


class OFA(Distilling):
    """Terms: for every stage and the student's own logits sum -((p_T + y)^eps - y) log p_S.

    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation", NeurIPS 2023, equations 6 and 7. The projector of a stage averages over positions
    and is linear; the paper has small nets for stages of transformers and convolutions. As in the
    released code, the exponent applies to all classes; in the equation it applies to the target
    class only. The exponent 1.1 is that of the released code of the paper behind this project. The
    code of OFA's authors has 1 by default, and 1.5 in its example from DeiT-T to ResNet-18 on
    ImageNet.

    Args:
        context: The student, the teacher and the batches.
        weight: As in `Distilling`.
        epsilon: The exponent, which increases the weight of the target class.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY
    needs_labels = True
    dense = False

    def __init__(
        self, context: TrialContext, weight: float | None = None, epsilon: float = 1.1
    ) -> None:
        super().__init__(context, weight)
        self._epsilon = epsilon
        check_at_least_0(epsilon=epsilon)
        stages = context.student.dry(context.run.samples).stages
        self._projectors = nn.ModuleList(
            nn.Linear(stage.shape[1], context.classes) for stage in stages
        )
        self.add_trainable("projectors", self._projectors)

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``logits``, and ``stage_i`` for every stage."""
        epsilon = self._epsilon
        terms = {"logits": ofa_loss(student.logits, teacher.logits, batch.label, epsilon)}
        for number, (projector, stage) in enumerate(
            zip(self._projectors, student.stages, strict=True)
        ):
            logits = projector(pooled(stage))
            terms[f"stage_{number}"] = ofa_loss(logits, teacher.logits, batch.label, epsilon)
        return terms


def ofa_loss(student: Tensor, teacher: Tensor, label: Tensor, epsilon: float) -> Tensor:
    """Compute OFA's loss, mean over the samples.

    Args:
        student: Logits ``(B, C)``.
        teacher: Logits ``(B, C)``.
        label: ``(B,)``.
        epsilon: The exponent.
    """
    target = F.one_hot(label, student.shape[1])
    weight = (teacher.softmax(dim=1) + target) ** epsilon - target
    return -(weight * student.log_softmax(dim=1)).sum(dim=1).mean()
