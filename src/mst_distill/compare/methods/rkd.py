"""RKD: the relations between the student's embeddings match those between the teacher's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Distilling, check_at_least_0
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.training.batches import Batch


class RKD(Distilling):
    """Terms: d l(psi_D(S), psi_D(T)) + a l(psi_A(S), psi_A(T)), l the smooth L1 loss.

    Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, equations 5 to 10. The
    relations need no common width, so both embeddings are compared as they are; the released code
    of the paper behind this project adds an untrained layer to the teacher's. The authors have d =
    1 and a = 2 for metric learning, without cross-entropy; comparisons of classifiers usually take
    25 and 50.

    Args:
        context: The student, the teacher and the batches.
        weight: As in `Distilling`.
        distance: d, the weight of the distances.
        angle: a, the weight of the angles.
    """

    teacher_inputs = "features"
    dense = False

    def __init__(
        self,
        context: TrialContext,
        weight: float | None = None,
        distance: float = 1.0,
        angle: float = 2.0,
    ) -> None:
        super().__init__(context, weight)
        self._distance, self._angle = distance, angle
        check_at_least_0(distance=distance, angle=angle)

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``distance`` and ``angle``, with their weights."""
        student_embedding, teacher_embedding = pooled(student.embedding), pooled(teacher.embedding)
        return {
            "distance": self._distance
            * F.smooth_l1_loss(distances(student_embedding), distances(teacher_embedding)),
            "angle": self._angle
            * F.smooth_l1_loss(angles(student_embedding), angles(teacher_embedding)),
        }


def distances(embedding: Tensor) -> Tensor:
    """Compute psi_D: distances of all pairs over their mean, ``(B, D)`` to ``(B, B)``."""
    distance = _differences(embedding).norm(dim=2)
    if len(distance) == 1:  # a single sample has no pair, and no mean distance
        return distance
    pairs = len(distance) * (len(distance) - 1)
    return distance / (distance.sum() / pairs).clamp(min=1e-12)


def angles(embedding: Tensor) -> Tensor:
    """Compute psi_A: cosines of the angles at i between j and k, ``(B, D)`` to ``(B, B, B)``."""
    differences = _differences(embedding)
    # Equal samples have no direction, and the gradient of a norm is unbounded near 0.
    equal = (differences == 0).all(dim=2, keepdim=True)
    directions = F.normalize(differences.masked_fill(equal, 1.0), dim=2).masked_fill(equal, 0.0)
    return directions @ directions.transpose(1, 2)


def _differences(embedding: Tensor) -> Tensor:
    """Compute ``(B, B, D)``; the diagonal is 0 without gradient, since a norm has none there."""
    differences = embedding[None] - embedding[:, None]
    same = torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    return differences.masked_fill(same[..., None], 0.0)
