"""OFA: every stage of the student, projected to logits, learns from the teacher's logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import Setup
from mst_distill.compare.method import Distilling
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch

EPSILON = 1.1
"""The exponent that makes the target class weigh more."""


class OFA(Distilling):
    """Terms: for every stage and the student's own logits sum -((p_T + y)^eps - y) log p_S.

    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
    Distillation", NeurIPS 2023, equations 6 and 7. A stage's projector averages over places and is
    linear; the paper's are small nets for stages of transformers and convolutions. As in the
    released code all classes have the exponent, which in the equation the target alone has.
    """

    dense = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        stages = setup.student.dry(setup.run.samples).stages
        self._projectors = nn.ModuleList(
            nn.Linear(stage.shape[1], setup.classes) for stage in stages
        )
        self.learn("projectors", self._projectors)

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``logits``, and ``stage_i`` for every stage."""
        terms = {"logits": enhanced(student.logits, teacher.logits, batch.label)}
        for number, (projector, stage) in enumerate(
            zip(self._projectors, student.stages, strict=True)
        ):
            logits = projector(pooled(stage))
            terms[f"stage_{number}"] = enhanced(logits, teacher.logits, batch.label)
        return terms


def enhanced(student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
    """OFA's loss, mean over the samples.

    Args:
        student: Logits ``(B, C)``.
        teacher: Logits ``(B, C)``.
        label: ``(B,)``.
    """
    target = F.one_hot(label, student.shape[1])
    weight = (teacher.softmax(dim=1) + target) ** EPSILON - target
    return -(weight * student.log_softmax(dim=1)).sum(dim=1).mean()
