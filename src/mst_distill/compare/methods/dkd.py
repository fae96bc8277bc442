"""DKD: KD of the target class and KD among the other classes, with separate weights."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.compare.context import ANY, TrialContext
from mst_distill.compare.method import Distilling, check_at_least_0
from mst_distill.mst.features import ModelOutput
from mst_distill.mst.losses import at_least_float32, distillation, is_target
from mst_distill.training.batches import Batch


class DKD(Distilling):
    """Terms: alpha TCKD + beta NCKD.

    Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, equation 7: TCKD is
    tau^2 KL of (target, all others), NCKD that among the others. The authors' code has alpha = 1
    throughout, beta = 8, tau = 4 and a warm-up over 20 of 240 epochs on CIFAR-100, and beta = 0.5,
    tau = 1 and a warm-up over 1 of 100 epochs from ResNet-34 to ResNet-18 on ImageNet. The factor
    of a warm-up over one epoch is 1 from the first epoch on, as without a warm-up. With dense
    labels, each labelled pixel is a sample.

    Args:
        context: The student, the teacher and the batches.
        weight: As in `Distilling`.
        temperature: As in `Distilling`.
        alpha: The weight of TCKD.
        beta: The weight of NCKD.
        warmup: The share of the epochs over which the factor of both terms rises to 1, in [0, 1).
            It is not in the paper's equation.
    """

    teachers: ClassVar[tuple[str, ...]] = ANY
    needs_labels = True

    def __init__(
        self,
        context: TrialContext,
        weight: float | None = None,
        temperature: float | None = None,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(context, weight, temperature)
        self._alpha, self._beta, self._warmup = alpha, beta, warmup
        check_at_least_0(alpha=alpha, beta=beta, warmup=warmup)
        if warmup >= 1:
            raise ValueError(f"warmup is {warmup}; it must be below 1")
        self._factor = 1.0

    def start_epoch(self, epoch: int) -> None:
        """Raise the factor of the terms, which is 1 after the warm-up."""
        rising = self._warmup * self.epochs
        self._factor = min(1.0, (epoch + 1) / rising) if rising else 1.0

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``target`` and ``others``, with their weights."""
        student_logits, teacher_logits, label = labelled_positions(
            student.logits, teacher.logits, batch.label, self.context.supervision.ignored
        )
        target, others = decoupled_losses(student_logits, teacher_logits, label, self.temperature)
        return {
            "target": self._factor * self._alpha * mean_or_0(target),
            "others": self._factor * self._beta * mean_or_0(others),
        }


def decoupled_losses(
    student: Tensor, teacher: Tensor, label: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute TCKD and NCKD of samples, ``(B, C)``, ``(B, C)`` and ``(B,)`` to ``(B,)`` each."""
    student_parts, teacher_parts = (
        _split(at_least_float32(logits) / temperature, label) for logits in (student, teacher)
    )
    target = F.kl_div(student_parts[0], teacher_parts[0], reduction="none", log_target=True).sum(
        dim=1
    )
    return temperature**2 * target, temperature**2 * distillation(
        student_parts[1], teacher_parts[1], 1.0
    )


def labelled_positions(
    student: Tensor, teacher: Tensor, label: Tensor, ignored: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``(n, C)`` of both nets and labels ``(n,)``.

    The n rows are the samples or, with dense labels, all labelled pixels of all samples.
    """
    if label.dim() == 1:
        return student, teacher, label
    labelled = is_target(label, ignored)
    return student.movedim(1, -1)[labelled], teacher.movedim(1, -1)[labelled], label[labelled]


def mean_or_0(losses: Tensor) -> Tensor:
    """Compute the mean; 0 with zero gradient if a batch has no labelled pixel."""
    return losses.mean() if losses.numel() else losses.sum()


def _split(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return log(target, all others) as ``(B, 2)``, and the others' logits as ``(B, C - 1)``."""
    log_probability = logits.log_softmax(dim=1)
    target = label[:, None]
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = others + (others >= target)  # the classes without that of the label
    log_others = log_probability.gather(1, others).logsumexp(dim=1, keepdim=True)
    parts = torch.cat([log_probability.gather(1, target), log_others], dim=1)
    return parts, logits.gather(1, others)
