"""The nets of AV-MNIST, as the method's released implementation has them.

Where a ReLU and a maximum follow one another the maximum comes first here: the same values and
gradients from a quarter of the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    """The image net: 61,706 weights for ten classes.

    Args:
        classes: Width of the logits.
    """

    channels_last = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, classes)
        self.pool = nn.AvgPool2d(2)

    def features(self, image: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` to ``(B, 84)``."""
        maps = self.pool(self.conv1(image).relu())
        maps = self.pool(self.conv2(maps).relu())
        return self.fc1(self.conv3(maps).relu().flatten(1)).relu()

    def forward(self, image: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` to logits ``(B, classes)``."""
        return self.fc2(self.features(image))


class ThreeLayerCNN(nn.Module):
    """The audio net, ThreeLayerCNN-A: 343,562 weights for ten classes.

    Args:
        classes: Width of the logits.
        width: Maps of the first convolution; each further one has twice as many.
        pooled: The spectrogram is averaged over squares of this side first, 1 to 14.

    Raises:
        ValueError: `pooled` is outside its range.
    """

    channels_last = True

    def __init__(self, classes: int, width: int = 32, pooled: int = 1) -> None:
        super().__init__()
        self.pooled = _averages(pooled, halvings=3)
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.fc1 = nn.Linear(4 * width * (112 // pooled // 8) ** 2, classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        maps = self.pooled(audio)
        for convolution in (self.conv1, self.conv2, self.conv3):
            maps = self.pool(convolution(maps)).relu()
        return self.fc1(maps.flatten(1))


class FusionCNN(nn.Module):
    """The multimodal teacher, CNN-I: 1,809,752 weights for ten classes.

    Args:
        classes: Width of the logits.
        width: Maps of the first convolution over the spectrogram; each further one has twice as
            many.
        pooled: The spectrogram is averaged over squares of this side first, 1 to 7.

    Raises:
        ValueError: `pooled` is outside its range.
    """

    channels_last = True

    def __init__(self, classes: int, width: int = 32, pooled: int = 1) -> None:
        super().__init__()
        self.audio = _AudioBranch(width, pooled)
        self.image = LeNet5(classes)
        del self.image.fc2
        self.concatenation = nn.Identity()
        self.fc1 = nn.Linear(84 + 16 * width, 298)
        self.fc2 = nn.Linear(298, classes)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` and ``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        features = torch.cat([self.image.features(image), self.audio(audio)], dim=1)
        return self.fc2(self.fc1(self.concatenation(features)))


def _averages(pooled: int, halvings: int) -> nn.Module:
    """Averages over squares, of which the spectrogram's 112 must leave enough to be halved."""
    most = 112 // 2**halvings
    if not 1 <= pooled <= most:
        nearest = min(max(pooled, 1), most)
        raise ValueError(f"pooled is {pooled}; it must be from 1 to {most}, for example {nearest}")
    return nn.AvgPool2d(pooled) if pooled > 1 else nn.Identity()


class _AudioBranch(nn.Module):
    """``(B, 1, 112, 112)`` to ``(B, 16 width)``."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.pooled = _averages(pooled, halvings=4)
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.conv4 = nn.Conv2d(4 * width, 8 * width, 3, padding=1)
        self.conv5 = nn.Conv2d(8 * width, 16 * width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)

    def forward(self, audio: Tensor) -> Tensor:
        maps = self.pooled(audio)
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            maps = self.pool(convolution(maps)).relu()
        return self.average(self.conv5(maps).relu()).flatten(1)
