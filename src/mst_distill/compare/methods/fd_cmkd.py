"""FD-CMKD: slow parts of the features must agree, fast parts only roughly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mst_distill.compare.context import Setup
from mst_distill.compare.method import Distilling
from mst_distill.mst.features import Observed, pooled
from mst_distill.training.batches import Batch

SLOW = 0.5
"""The share of frequencies that counts as low."""


class FDCMKD(Distilling):
    """Terms: MSE of the low and log-MSE of the high frequencies, and CE of a shared classifier.

    Liu, Zhang, Huang, Xu, Yang, "Distilling Cross-Modal Knowledge via Feature Disentanglement",
    AAAI 2026. The student's embedding is brought to the teacher's width by a linear layer; both are
    split by a Fourier transform over their channels, and each part is brought to one scale (mean 0,
    variance 1 within a sample). The high parts are compared as sign(x) log(1 + |x|). One classifier
    learns labels from both embeddings. The paper aligns scales by a loss, where they are made equal
    here, and has a classifier a part.
    """

    hears = "features"
    dense = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        samples = setup.run.samples
        own = pooled(setup.student.dry(samples).embedding).shape[1]
        other = pooled(setup.frozen_teacher.dry(samples).embedding).shape[1]
        self._align = self.learn("align", nn.Linear(own, other))
        self._classify = self.learn("classify", nn.Linear(other, setup.classes))

    def distil(self, student: Observed, teacher: Observed, batch: Batch) -> dict[str, Tensor]:
        """``low``, ``high`` and ``shared``."""
        own, other = self._align(pooled(student.embedding)), pooled(teacher.embedding)
        own_low, own_high = map(one_scale, split_frequencies(own))
        other_low, other_high = map(one_scale, split_frequencies(other))
        shared = [
            self.cross_entropy(self._classify(one_scale(embedding)), batch)
            for embedding in (own, other)
        ]
        return {
            "low": F.mse_loss(own_low, other_low),
            "high": F.mse_loss(signed_log(own_high), signed_log(other_high)),
            "shared": torch.stack(shared).mean(),
        }


def signed_log(values: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): large differences count for less.

    The slope at 0 is 1, which the derivatives of sign and modulus there would make 0.
    """
    return torch.where(values == 0, values, values.sign() * values.abs().log1p())


def one_scale(embedding: Tensor) -> Tensor:
    """Mean 0 and variance 1 within a sample, ``(B, D)``."""
    return F.layer_norm(embedding, embedding.shape[1:])


def split_frequencies(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """The parts of ``(B, D)`` of low and of high frequency over D; together they are the whole."""
    spectrum = torch.fft.rfft(embedding, dim=1)
    cut = max(1, round(SLOW * spectrum.shape[1]))
    slow = torch.fft.irfft(spectrum[:, :cut], n=embedding.shape[1], dim=1)
    return slow, embedding - slow
