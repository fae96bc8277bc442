"""Building blocks of the nets for sound and video: one branch for each, and the common head.

Max pooling precedes the ReLU here, not the other way round as in the method's released
implementation: the values and gradients are the same, but the ReLU computes only a fraction of the
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn


class AudioBranch(nn.Module):
    """Convolutions over time, each followed by a batch norm and max pooling over three frames.

    Args:
        channels: Channels of the input, then of the output of each convolution.
        frames: Length T of the input.

    Attributes:
        width: Number of output features.
    """

    def __init__(self, channels: Sequence[int], frames: int) -> None:
        super().__init__()
        self.width = channels[-1] * (frames // 3 ** (len(channels) - 1))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inputs, outputs, 3, padding=1) for inputs, outputs in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(outputs) for outputs in channels[1:])
        self.pool = nn.MaxPool1d(3)

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(B, C, T)`` to ``(B, width)``."""
        maps = audio
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            maps = self.pool(norm(convolution(maps))).relu()
        return maps.flatten(1)


class VisualBranch(nn.Module):
    """Convolutions over time and space, each with a batch norm, and max pooling over 2 x 2 x 2.

    Args:
        channels: Channels of the input, then of the output of each convolution.
        pooled: Number of convolutions, from the first, that are followed by max pooling.
        size: T, H and W of the input.

    Attributes:
        width: Number of output features.
    """

    def __init__(self, channels: Sequence[int], pooled: int, size: Sequence[int]) -> None:
        super().__init__()
        self.width = channels[-1] * prod(side // 2**pooled for side in size)
        self.convolutions = nn.ModuleList(
            nn.Conv3d(inputs, outputs, 3, padding=1) for inputs, outputs in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(outputs) for outputs in channels[1:])
        self.pools = nn.ModuleList(
            nn.MaxPool3d(2) if index < pooled else nn.Identity() for index in range(len(self.norms))
        )

    def forward(self, video: Tensor) -> Tensor:
        """Map ``(B, C, T, H, W)`` to ``(B, width)``."""
        maps = video
        for convolution, norm, pool in zip(self.convolutions, self.norms, self.pools, strict=True):
            maps = pool(norm(convolution(maps))).relu()
        return maps.flatten(1)


class Head(nn.Module):
    """Two hidden layers and the layer of the logits.

    Args:
        width: Width of the features.
        classes: Width of the logits.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 320)
        self.fc2 = nn.Linear(320, 160)
        self.fc3 = nn.Linear(160, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, width)`` to logits ``(B, classes)``."""
        return self.fc3(self.fc2(self.fc1(features).relu()).relu())
