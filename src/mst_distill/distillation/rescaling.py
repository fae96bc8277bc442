"""Logits brought to the student's by one number a specialist: the cheapest stand-in for masks."""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from mst_distill.distillation.losses import distillation

WIDEST = 5.0
"""A specialist's logits are multiplied by e^-5 to e^5."""


def rescale(specialists: Tensor, student: Tensor, temperature: float) -> Tensor:
    """The logits s_e z_e whose mean KD(s_e z_e <- S) over the samples is smallest.

    Args:
        specialists: ``(n, E, C)``.
        student: ``(n, C)``.
        temperature: tau of KD.

    Returns:
        ``(n, E, C)``.
    """
    scales = [_scale(of, student, temperature) for of in specialists.double().unbind(dim=1)]
    return specialists * torch.tensor(scales, dtype=specialists.dtype)[:, None]


def _scale(logits: Tensor, student: Tensor, temperature: float) -> float:
    def loss(power: float) -> float:
        scaled = torch.tensor(power).exp() * logits
        return float(distillation(scaled, student.double(), temperature).mean())

    found = minimize_scalar(loss, bounds=(-WIDEST, WIDEST), method="bounded")
    return float(torch.tensor(found.x).exp())
