"""DKD: what KD says of the target class, and what it says of the others, weighed apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.method import Distilling
from mst_distill.mst.features import Observed
from mst_distill.mst.losses import at_least_float32, distillation
from mst_distill.training.batches import Batch

TARGET, OTHERS = 1.0, 8.0
"""alpha and beta."""


class DKD(Distilling):
    """Terms: alpha TCKD + beta NCKD.

    Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, equation 7: TCKD is
    tau^2 KL of (target, all others), NCKD that among the others. The released code lets both grow
    over 20 epochs, which is not in the equation and not here. Of dense labels every place that is a
    target is a sample.
    """

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``target`` and ``others``, with their weights."""
        own, other, label = per_place(
            student.logits, teacher.logits, batch.label, self.setup.ignored
        )
        target, others = decoupled(own, other, label, self.setup.temperature)
        return {"target": TARGET * mean_or_0(target), "others": OTHERS * mean_or_0(others)}


def decoupled(
    student: Tensor, teacher: Tensor, label: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of every sample, ``(B, C)``, ``(B, C)`` and ``(B,)`` to ``(B,)`` each."""
    own, other = (
        _split(at_least_float32(logits) / temperature, label) for logits in (student, teacher)
    )
    target = F.kl_div(own[0], other[0], reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * target, temperature**2 * distillation(own[1], other[1], 1.0)


def per_place(
    student: Tensor, teacher: Tensor, label: Tensor, ignored: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits ``(n, C)`` of both and labels ``(n,)``; of dense ones a row a place that is judged."""
    if label.dim() == 1:
        return student, teacher, label
    judged = torch.ones_like(label, dtype=torch.bool) if ignored is None else label != ignored
    return student.movedim(1, -1)[judged], teacher.movedim(1, -1)[judged], label[judged]


def mean_or_0(each: Tensor) -> Tensor:
    """Mean over the places; 0, without a gradient, of a batch in which no place is a target."""
    return each.mean() if each.numel() else each.sum()


def _split(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """log(target, all others) as ``(B, 2)``, and the others' logits as ``(B, C - 1)``."""
    log_probability = logits.log_softmax(dim=1)
    is_target = F.one_hot(label, logits.shape[1]).bool()
    shape = (len(logits), logits.shape[1] - 1)
    others = logits[~is_target].view(shape)
    log_others = log_probability[~is_target].view(shape).logsumexp(dim=1)
    return torch.stack([log_probability[is_target], log_others], dim=1), others
