"""Small nets for the embedded benchmark `digits`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DigitImageNet(nn.Module):
    """A convolutional net for images ``(B, 1, 8, 8)``.

    Args:
        classes: Width of the logits.
    """

    channels_last = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(32 * 4 * 4, 48)
        self.logits = nn.Linear(48, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 1, 8, 8)`` to logits ``(B, classes)``."""
        return self.logits(self.hidden(self.features(image)).relu())


class DigitAudioNet(nn.Module):
    """A convolutional net over time for MFCC frames ``(B, 13, 32)``.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(13, 32, 3, padding=1),
            nn.MaxPool1d(2),
            nn.ReLU(),
            nn.Conv1d(32, 48, 3, padding=1),
            nn.MaxPool1d(4),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.dense = nn.Linear(48 * 4, 64)
        self.hidden = nn.Linear(64, 48)
        self.logits = nn.Linear(48, classes)

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(B, 13, 32)`` to logits ``(B, classes)``."""
        hidden = self.hidden(self.dense(self.features(audio)).relu())
        return self.logits(hidden.relu())


class DigitFusionNet(nn.Module):
    """The multimodal teacher: both digit nets with 48 features each, concatenated with image first.

    Args:
        classes: Width of the logits.
    """

    channels_last = True

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.image = DigitImageNet(48)
        self.audio = DigitAudioNet(48)
        self.fusion = nn.Identity()
        self.hidden = nn.Linear(96, 48)
        self.logits = nn.Linear(48, classes)

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """Map ``(B, 1, 8, 8)`` and ``(B, 13, 32)`` to logits ``(B, classes)``."""
        fused = self.fusion(torch.cat([self.image(image), self.audio(audio)], dim=1).relu())
        return self.logits(self.hidden(fused).relu())
