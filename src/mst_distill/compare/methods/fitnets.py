"""FitNets: first the student's hidden layers learn to give the teacher's, then KD."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import Setup, Taught
from mst_distill.compare.method import Method
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch
from mst_distill.training.selection import SELECTION

HINT_RATE = 1e-3
"""Adam's learning rate in the hint stage."""


class FitNets(KD):
    """Hint stage, then KD.

    Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2 and algorithm 1. The
    hint stage has the epochs of stage 1, KD those of stage 3.
    """

    @classmethod
    def teach(cls, setup: Setup) -> Taught:
        """Hints, then KD from the student that they leave."""
        setup.hears = "features"
        last = {"last": SELECTION["last"]}
        recipe = setup.recipe
        hints = setup.fit(Hints(setup), recipe.teachers.epochs, HINT_RATE, last, "/hints")
        setup.hears = "logits"
        taught = setup.fit(cls(setup), recipe.route.epochs)
        return taught.beside(hints)


class Hints(Method):
    """L = sum over the stages of MSE(regressor(student's stage), teacher's stage).

    Equation 3 of the paper, with the mean for half the sum, for as many stages as both nets have,
    counted from the last; the masked layers are the stages. A regressor is linear: for vectors a
    matrix, for maps of the same number of axes a convolution with kernel 1, after which places are
    averaged to the teacher's grid; a map is averaged over its places where the other side has none.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        samples = setup.run.samples
        pairs = _pairs(setup.student.dry(samples), setup.frozen_teacher.dry(samples))
        if not pairs:
            raise ValueError(
                f"FitNets needs layers to compare: member {setup.run.target!r} or "
                f"{setup.teacher_name!r} has no masked_layers"
            )
        self._regressors = nn.ModuleList(_regressor(own, other) for own, other in pairs)
        self.learn("regressors", self._regressors)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, the sum over the stages."""
        student, teacher = self.student(batch.inputs), Observed.of(batch.frozen["teacher"])
        pairs = zip(self._regressors, _pairs(student, teacher), strict=True)
        parts = [hint_loss(regressor(own), other) for regressor, (own, other) in pairs]
        return {"loss": sum(parts[1:], parts[0])}


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference, the student's places averaged to the teacher's grid.

    Args:
        student: ``(B, F)`` or ``(B, F, ...)``.
        teacher: The same but for the extent of the places.
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


def _pairs(student: Observed, teacher: Observed) -> list[tuple[Tensor, Tensor]]:
    """Stages side by side from the last on; without places where one side has none."""
    count = min(len(student.stages), len(teacher.stages))
    stages = zip(student.stages[-count:], teacher.stages[-count:], strict=True) if count else ()
    return [
        (own, other) if own.dim() == other.dim() else (pooled(own), pooled(other))
        for own, other in stages
    ]


def _regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    width, wanted = student.shape[1], teacher.shape[1]
    if student.dim() == 2:
        return nn.Linear(width, wanted)
    return _CONVOLUTION[student.dim() - 2](width, wanted, 1)
