"""After FD-CMKD: features must agree closely in low frequencies, and roughly in high ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import TrialContext
from mst_distill.compare.method import Distilling
from mst_distill.mst.features import ModelOutput, pooled
from mst_distill.training.batches import Batch

LOW_SHARE = 0.5
"""The share of frequencies that counts as low."""


class FDCMKD(Distilling):
    """Terms: MSE of the low and log-MSE of the high frequencies, and CE of a shared classifier.

    Liu, Zhang, Huang, Xu, Yang, "Distilling Cross-Modal Knowledge via Feature Disentanglement",
    AAAI 2026. A linear layer brings the student's embedding to the teacher's width; both are split
    by a Fourier transform over their channels, and each part is standardised (mean 0, variance 1
    within a sample). The high parts are compared as sign(x) log(1 + |x|). One classifier learns the
    labels from both embeddings.

    This is a method after FD-CMKD and not FD-CMKD itself: the paper aligns the scales by a loss and
    has a classifier for each part, while here the scales are made equal, and its code could not be
    compared.
    """

    teacher_inputs = "features"
    dense = False

    def __init__(self, context: TrialContext, weight: float | None = None) -> None:
        super().__init__(context, weight)
        samples = context.run.samples
        student_width = context.student.dry(samples).embedding.shape[1]
        teacher_width = context.frozen_teacher.dry(samples).embedding.shape[1]
        self._align = self.add_trainable("align", nn.Linear(student_width, teacher_width))
        self._classify = self.add_trainable("classify", nn.Linear(teacher_width, context.classes))

    def distil(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Compute ``low``, ``high`` and ``shared``."""
        aligned, target = self._align(pooled(student.embedding)), pooled(teacher.embedding)
        student_low, student_high = map(standardise, split_frequencies(aligned))
        teacher_low, teacher_high = map(standardise, split_frequencies(target))
        shared = [
            self.cross_entropy(self._classify(standardise(embedding)), batch)
            for embedding in (aligned, target)
        ]
        return {
            "low": F.mse_loss(student_low, teacher_low),
            "high": F.mse_loss(signed_log(student_high), signed_log(teacher_high)),
            "shared": torch.stack(shared).mean(),
        }


def signed_log(values: Tensor) -> Tensor:
    """Compute sign(x) log(1 + |x|), which reduces large differences.

    The gradient at 0 is 1; the product of sign and modulus would have 0 there.
    """
    return torch.where(values == 0, values, values.sign() * values.abs().log1p())


def standardise(embedding: Tensor) -> Tensor:
    """Scale ``(B, D)`` to mean 0 and variance 1 within each sample."""
    return F.layer_norm(embedding, embedding.shape[1:])


def split_frequencies(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Split ``(B, D)`` into parts of low and high frequency over D, which add up to the whole."""
    spectrum = torch.fft.rfft(embedding, dim=1)
    cut = max(1, round(LOW_SHARE * spectrum.shape[1]))
    low = torch.fft.irfft(spectrum[:, :cut], n=embedding.shape[1], dim=1)
    return low, embedding - low
