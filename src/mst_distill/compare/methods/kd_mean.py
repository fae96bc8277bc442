"""KD from the mean of all teachers: several teachers without masks and without a router."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mst_distill.compare.context import MethodResult, TrialContext
from mst_distill.compare.methods.kd import KD
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.batches import Inputs


class MeanKD(KD):
    """Term: tau^2 KL(mean of softmax(T_i / tau) || softmax(S / tau)), over all teachers T_i.

    You, Xu, Xu, Tao, "Learning from Multiple Teacher Networks", KDD 2017, equation 3, without its
    triplets. It has what MST-Distill has in addition to KD, several teachers, and nothing else of
    it: no common training, no masks, no router. Given teachers are among them. If samples lack
    modalities, the term is over those that have all.
    """

    teachers = ()
    all_teachers = True

    @classmethod
    def teach(cls, context: TrialContext, **arguments: Any) -> MethodResult:
        """Train the student for the epochs of the context."""
        teachers = [context.pool.logits(name) for name in context.pool.names]
        method = cls(context, **arguments)

        def mean(inputs: Inputs) -> tuple[Tensor, ...]:
            logits = [of for teacher in teachers for of in teacher(inputs)]
            return (mean_logits(logits, method.temperature),)

        reads = dict.fromkeys(name for teacher in teachers for name in teacher.modalities)
        context.use_teacher(mean, tuple(reads))
        return context.fit(method, context.epochs)


def mean_logits(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """Compute logits whose probabilities at a temperature are the mean of those of all nets.

    Args:
        logits: ``(B, C, ...)`` of each net.
        temperature: Tau > 0.
    """
    each = torch.stack([at_least_float32(of) / temperature for of in logits])
    mean = each.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(logits))
    return temperature * mean
