"""The nets of AV-MNIST, as in the method's released implementation.

Max pooling precedes the ReLU here, not the other way round as in that implementation: the values
and gradients are the same, but the ReLU computes only a quarter of the numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet5(nn.Module):
    """The unimodal net for images: 61,706 weights for ten classes.

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
        """Map ``(B, 1, 28, 28)`` to ``(B, 84)``."""
        maps = self.pool(self.conv1(image).relu())
        maps = self.pool(self.conv2(maps).relu())
        return self.fc1(self.conv3(maps).relu().flatten(1)).relu()

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 1, 28, 28)`` to logits ``(B, classes)``."""
        return self.fc2(self.features(image))


class ThreeLayerCNN(nn.Module):
    """The unimodal net for audio, ThreeLayerCNN-A: 343,562 weights for ten classes.

    Args:
        classes: Width of the logits.
        width: Channels of the first convolution; each further one has twice as many.
        pooled: Side of the squares over which the spectrogram is averaged first, 1 to 14.

    Raises:
        ValueError: `pooled` is outside its range.
    """

    channels_last = True

    def __init__(self, classes: int, width: int = 32, pooled: int = 1) -> None:
        super().__init__()
        self.pooled = _average_pooling(pooled, halvings=3)
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.fc1 = nn.Linear(4 * width * (112 // pooled // 8) ** 2, classes)
        self.pool = nn.MaxPool2d(2)

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        maps = self.pooled(audio)
        for convolution in (self.conv1, self.conv2, self.conv3):
            maps = self.pool(convolution(maps)).relu()
        return self.fc1(maps.flatten(1))


class FusionCNN(nn.Module):
    """The multimodal teacher, CNN-I: 1,809,752 weights for ten classes.

    Args:
        classes: Width of the logits.
        width: Channels of the first convolution over the spectrogram; each further one has twice
            as many.
        pooled: Side of the squares over which the spectrogram is averaged first, 1 to 7.

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
        """Map ``(B, 1, 28, 28)`` and ``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        features = torch.cat([self.image.features(image), self.audio(audio)], dim=1)
        return self.fc2(self.fc1(self.concatenation(features)))


def _average_pooling(pooled: int, halvings: int) -> nn.Module:
    """Return a layer that averages the 112 x 112 spectrogram over squares.

    Args:
        pooled: Side of the squares.
        halvings: Number of later poolings by two, for which enough rows and columns must remain.

    Raises:
        ValueError: `pooled` is outside its range.
    """
    largest = 112 // 2**halvings
    if not 1 <= pooled <= largest:
        nearest = min(max(pooled, 1), largest)
        raise ValueError(
            f"pooled is {pooled}; it must be from 1 to {largest}, for example {nearest}"
        )
    return nn.AvgPool2d(pooled) if pooled > 1 else nn.Identity()


class _AudioBranch(nn.Module):
    """Maps ``(B, 1, 112, 112)`` to ``(B, 16 width)``."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.pooled = _average_pooling(pooled, halvings=4)
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
