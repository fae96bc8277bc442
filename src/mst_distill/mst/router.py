"""Routers: networks from the student's output for a sample to one logit for each specialist."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.mst.features import ModelOutput, pooled


class ClassRouter(nn.Module):
    """Two linear layers without an activation between them, as in the released implementation.

    Args:
        classes: C, the width of the student's logits.
        specialists: E.
    """

    def __init__(self, classes: int, specialists: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(classes, 2 * classes)
        self.prefer = nn.Linear(2 * classes, specialists)

    def forward(self, student: ModelOutput) -> Tensor:
        """The student's logits ``(B, C)`` to the router's logits ``(B, E)``."""
        return self.prefer(self.hidden(student.logits))


class DenseRouter(nn.Module):
    """One routing decision for each image, from dense logits.

    Args:
        classes: C, the channels of the student's logits.
        specialists: E.
    """

    def __init__(self, classes: int, specialists: int) -> None:
        super().__init__()
        wide = 2 * classes
        self.pool = nn.Sequential(
            nn.Conv2d(classes, wide, 1),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1, groups=wide),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.prefer = nn.Linear(wide, specialists)

    def forward(self, student: ModelOutput) -> Tensor:
        """The student's logits ``(B, C, H, W)`` to the router's logits ``(B, E)``."""
        return self.prefer(self.pool(student.logits))


class FeatureRouter(nn.Module):
    """A small net on the student's embedding.

    The embedding is detached, so that the gradient of the router does not reach the student.

    Args:
        width: D, the width of the input of the student's last layer.
        specialists: E.
    """

    def __init__(self, width: int, specialists: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 64)
        self.prefer = nn.Linear(64, specialists)

    def forward(self, student: ModelOutput) -> Tensor:
        """The embedding ``(B, D)`` or ``(B, D, H, W)``, averaged over positions, to ``(B, E)``."""
        feature = pooled(student.embedding.detach())
        return self.prefer(self.hidden(self.norm(feature)).relu())


class UniformRouter(nn.Module):
    """Equal logits for all specialists and samples; nothing in it is trained.

    Args:
        specialists: E.
    """

    def __init__(self, specialists: int) -> None:
        super().__init__()
        self.preference = nn.Parameter(torch.zeros(specialists), requires_grad=False)

    def forward(self, student: ModelOutput) -> Tensor:
        """The student's output of B samples to logits ``(B, E)``."""
        return self.preference.expand(len(student.logits), -1)
