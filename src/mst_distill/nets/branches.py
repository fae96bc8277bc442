"""Parts of the nets for sound and moving pictures: a branch each, and the head behind them.

Where a ReLU and a maximum follow one another the maximum comes first here: the same values and
gradients from a fraction of the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn


class AudioBranch(nn.Module):
    """Convolutions over time, each with a batch norm and a maximum over three frames.

    Args:
        channels: Of the input, then of each convolution's output.
        frames: T of the input.

    Attributes:
        width: How many features come out.
    """

    def __init__(self, channels: Sequence[int], frames: int) -> None:
        super().__init__()
        self.width = channels[-1] * (frames // 3 ** (len(channels) - 1))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 3, padding=1) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(after) for after in channels[1:])
        self.pool = nn.MaxPool1d(3)

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, C, T)`` to ``(B, width)``."""
        maps = audio
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = self.pool(norm(convolution(maps))).relu()
        return maps.flatten(1)


class VisualBranch(nn.Module):
    """Convolutions over time and space, each with a batch norm, and maxima over 2 x 2 x 2.

    Args:
        channels: Of the input, then of each convolution's output.
        pooled: How many of the convolutions, from the first, are followed by a maximum.
        size: T, H and W of the input.

    Attributes:
        width: How many features come out.
    """

    def __init__(self, channels: Sequence[int], pooled: int, size: Sequence[int]) -> None:
        super().__init__()
        self.width = channels[-1] * prod(side // 2**pooled for side in size)
        self.convolutions = nn.ModuleList(
            nn.Conv3d(before, after, 3, padding=1) for before, after in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(after) for after in channels[1:])
        self.pools = nn.ModuleList(
            nn.MaxPool3d(2) if place < pooled else nn.Identity() for place in range(len(self.norms))
        )

    def forward(self, video: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, width)``."""
        maps = video
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            maps = pool(norm(convolution(maps))).relu()
        return maps.flatten(1)


class Head(nn.Module):
    """Two hidden layers and the logits.

    Args:
        width: Of the features.
        classes: Width of the logits.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 320)
        self.fc2 = nn.Linear(320, 160)
        self.fc3 = nn.Linear(160, classes)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, width)`` to logits ``(B, classes)``."""
        return self.fc3(self.fc2(self.fc1(features).relu()).relu())
