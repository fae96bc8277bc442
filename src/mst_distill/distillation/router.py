"""Routers: from the student's logits to a preference among the specialists."""

from __future__ import annotations

from torch import Tensor, nn


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

    def forward(self, logits: Tensor) -> Tensor:
        """``(B, C)`` to ``(B, E)``, unnormalised."""
        return self.prefer(self.hidden(logits))


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

    def forward(self, logits: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, E)``, unnormalised."""
        return self.prefer(self.pool(logits))


def router_class(dense: bool) -> type[ClassRouter] | type[DenseRouter]:
    """The router for dense logits, or for one row of logits a sample."""
    return DenseRouter if dense else ClassRouter
