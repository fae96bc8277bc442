"""FitNets: the student's hidden layers are trained to regress the teacher's, then KD follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import CROSSMODAL, MethodResult, TrialContext
from mst_distill.compare.method import Method
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.mst.losses import total
from mst_distill.parameters import MULTIMODAL
from mst_distill.training.batches import Batch
from mst_distill.training.selection import SELECTION


class FitNets(KD):
    """Hint stage, then KD.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2 and algorithm 1. The
    hint stage has the epochs of stage 1, KD those of stage 3.
    """

    teachers = (MULTIMODAL, CROSSMODAL)

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train with hints, then train the resulting student with KD."""
        context.teacher_inputs = "features"
        last = {"last": SELECTION["last"]}
        plan = context.plan
        hints = context.fit(Hints(context), plan.teachers.epochs, last, "/hints")
        context.teacher_inputs = "logits"
        result = context.fit(cls(context, **arguments), plan.route.epochs)
        return result.with_earlier_phase(hints)


class Hints(Method):
    """L = sum over the stages of MSE(regressor(student's stage), teacher's stage).

    Equation 3 of the paper, with the mean in place of half the sum. The stages are the masked
    layers, paired from the last one backwards for as many as both nets have. A regressor is linear:
    a matrix between vectors, and a convolution with kernel size 1 between maps with the same number
    of axes, followed by averaging to the teacher's grid. If the numbers of axes differ, both stages
    are averaged to vectors first.

    Raises:
        ValueError: One of the nets has no masked layers.
    """

    def __init__(self, context: TrialContext) -> None:
        super().__init__(context)
        samples = context.run.samples
        pairs = _stage_pairs(context.student.dry(samples), context.frozen_teacher.dry(samples))
        if not pairs:
            raise ValueError(
                f"FitNets needs layers to compare: member {context.run.target!r} or "
                f"{context.teacher_name!r} has no masked_layers"
            )
        self._regressors = nn.ModuleList(
            _regressor(student_stage, teacher_stage) for student_stage, teacher_stage in pairs
        )
        self.add_trainable("regressors", self._regressors)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute ``loss``, the sum over the stages."""
        terms: list[Tensor] = []
        if pair := self.with_teacher(self.student(batch.inputs), batch):
            student, seen = pair
            stages = _stage_pairs(student, ModelOutput.of(seen.frozen["teacher"]))
            terms = [
                hint_loss(regressor(student_stage), teacher_stage)
                for regressor, (student_stage, teacher_stage) in zip(
                    self._regressors, stages, strict=True
                )
            ]
        return {"loss": sum(terms[1:], terms[0]) if terms else total((), batch.label)}


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared difference, the student's map averaged to the teacher's grid.

    Args:
        student: ``(B, F)`` or ``(B, F, ...)``.
        teacher: The same but for the extent of the map.
    """
    if student.shape[2:] != teacher.shape[2:]:
        student = _POOL[student.dim() - 2](student, list(teacher.shape[2:]))
    return F.mse_loss(student, teacher)


_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _stage_pairs(student: ModelOutput, teacher: ModelOutput) -> list[tuple[Tensor, Tensor]]:
    """Pair the last stages of both nets; both are averaged to vectors if their axes differ."""
    count = min(len(student.stages), len(teacher.stages))
    stages = zip(student.stages[-count:], teacher.stages[-count:], strict=True) if count else ()
    return [
        (student_stage, teacher_stage)
        if student_stage.dim() == teacher_stage.dim()
        else (pooled(student_stage), pooled(teacher_stage))
        for student_stage, teacher_stage in stages
    ]


def _regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    width, target_width = student.shape[1], teacher.shape[1]
    if student.dim() == 2:
        return nn.Linear(width, target_width)
    return _CONVOLUTION[student.dim() - 2](width, target_width, 1)
