"""RKD: the student's samples lie to one another as the teacher's do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.method import Distilling
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch

ANGLE = 2.0
"""The weight of the angles, beside 1 for the distances."""


class RKD(Distilling):
    """Terms: l(psi_D(S), psi_D(T)) + 2 l(psi_A(S), psi_A(T)), l the smooth L1 loss.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, equations 5 to 10. The
    relations need no common width, so both nets' embeddings are compared as they are: the released
    code of the paper behind this project puts a layer on the teacher's that nothing trains.
    """

    hears = "features"
    dense = False

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``distance`` and ``angle``, the latter with its weight."""
        own, other = pooled(student.embedding), pooled(teacher.embedding)
        return {
            "distance": F.smooth_l1_loss(distances(own), distances(other)),
            "angle": ANGLE * F.smooth_l1_loss(angles(own), angles(other)),
        }


def distances(embedding: Tensor) -> Tensor:
    """psi_D: distances of all pairs over their mean, ``(B, D)`` to ``(B, B)``."""
    apart = _differences(embedding).norm(dim=2)
    if len(apart) == 1:  # a single sample has no pair, and no mean distance
        return apart
    between = ~torch.eye(len(apart), dtype=torch.bool, device=apart.device)
    return apart / apart[between].mean().clamp(min=1e-12)


def angles(embedding: Tensor) -> Tensor:
    """psi_A: cosines of the angles at i between j and k, ``(B, D)`` to ``(B, B, B)``."""
    differences = _differences(embedding)
    # Two equal samples have no direction, and the slope of a norm at 0 knows no bounds.
    equal = (differences == 0).all(dim=2, keepdim=True)
    directions = F.normalize(differences.masked_fill(equal, 1.0), dim=2).masked_fill(equal, 0.0)
    return directions @ directions.transpose(1, 2)


def _differences(embedding: Tensor) -> Tensor:
    """``(B, B, D)``; the diagonal is 0 without gradient, which a norm does not have there."""
    differences = embedding[None] - embedding[:, None]
    same = torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    return differences.masked_fill(same[..., None], 0.0)
