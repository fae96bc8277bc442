"""Routers: from what the student makes of a sample to a preference among the specialists."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.mst.features import Observed, pooled


class ClassRouter(nn.Module):
    """Two linear layers, with no activation between them, as in the reference.

    Args:
        classes: C, the width of the student's logits.
        specialists: E.
    """

    def __init__(self, classes: int, specialists: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(classes, 2 * classes)
        self.prefer = nn.Linear(2 * classes, specialists)

    def forward(self, student: Observed) -> Tensor:
        """Logits ``(B, C)`` to ``(B, E)``, unnormalised."""
        return self.prefer(self.hidden(student.logits))


class DenseRouter(nn.Module):
    """One decision per image from dense logits.

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

    def forward(self, student: Observed) -> Tensor:
        """Logits ``(B, C, H, W)`` to ``(B, E)``, unnormalised."""
        return self.prefer(self.pool(student.logits))


class FeatureRouter(nn.Module):
    """A small net on the student's detached features: what it learns does not bend the student.

    Args:
        width: D, of what the student's last layer sees.
        specialists: E.
    """

    def __init__(self, width: int, specialists: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 64)
        self.prefer = nn.Linear(64, specialists)

    def forward(self, student: Observed) -> Tensor:
        """Embedding ``(B, D)``, or ``(B, D, H, W)`` averaged over places, to ``(B, E)``."""
        feature = pooled(student.embedding.detach())
        return self.prefer(self.hidden(self.norm(feature)).relu())


class UniformRouter(nn.Module):
    """The same preference for all specialists and samples; nothing in it learns.

    Args:
        specialists: E.
    """

    def __init__(self, specialists: int) -> None:
        super().__init__()
        self.preference = nn.Parameter(torch.zeros(specialists), requires_grad=False)

    def forward(self, student: Observed) -> Tensor:
        """``(B, E)``."""
        return self.preference.expand(len(student.logits), -1)
