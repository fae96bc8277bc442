"""DIST: the student's probabilities need only be correlated with the teacher's."""

from __future__ import annotations

from torch import Tensor

from mst_distill.compare.method import Distilling
from mst_distill.compare.methods.dkd import per_place
from mst_distill.mst.features import Observed
from mst_distill.training.batches import Batch

INTER, INTRA = 2.0, 2.0
"""Weights of the relation within a sample and of that within a class."""


class DIST(Distilling):
    """Terms: 2 tau^2 mean(1 - r(rows)) + 2 tau^2 mean(1 - r(columns)), r Pearson's correlation.

    Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
    equations 6 to 9, of the probabilities at temperature tau; of dense labels every place that is
    a target is a sample.
    """

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``inter`` and ``intra``, with their weights."""
        own, other, _ = per_place(student.logits, teacher.logits, batch.label, self.setup.ignored)
        heat = self.setup.temperature
        own, other = ((logits / heat).softmax(dim=1) for logits in (own, other))
        return {
            "inter": INTER * heat**2 * uncorrelated(own, other),
            "intra": INTRA * heat**2 * uncorrelated(own.T, other.T),
        }


def uncorrelated(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the rows of 1 - Pearson's r; rows ``(R, K)``, in [0, 2].

    A row in which nothing varies correlates with nothing, r = 0, and has no gradient, which knows
    no bounds near it. Without any values the loss is 0.
    """
    if not student.numel():
        return student.sum()
    own, other = (_centred(rows) for rows in (student, teacher))
    scale = (own.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-8)
    return (1 - (own * other).sum(dim=1) / scale).mean()


def _centred(rows: Tensor) -> Tensor:
    """Rows minus their means; exactly 0 where all of a row is equal, which its mean may miss."""
    constant = (rows == rows[:, :1]).all(dim=1, keepdim=True)
    return (rows - rows.mean(dim=1, keepdim=True)).masked_fill(constant, 0.0)
