"""The nets of RAVDESS, as the method's released implementation has them, and two for its units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.nets.branches import AudioBranch, Head, VisualBranch

AUDIO = (15, 32, 128, 256)
"""Channels of the audio branch."""

AUDIO_WIDTH = 256 * 5
"""Its features: 156 frames become five."""

VIDEO = (3, 6, 12, 24)
"""Channels of the visual branch."""

VIDEO_WIDTH = 24 * 1 * 28 * 28
"""Its features: 15 x 224 x 224 pixels become 1 x 28 x 28."""

UNITS = 35
"""Action units of a face."""


class AudioBranchNet(nn.Module):
    """The audio net: 575,848 weights for eight classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.branch = AudioBranch(AUDIO)
        self.head = Head(AUDIO_WIDTH, classes)

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, 15, 156)`` to logits ``(B, classes)``."""
        return self.head(self.branch(audio))


class VisualBranchNet(nn.Module):
    """The video net: 6,084,420 weights for eight classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.branch = VisualBranch(VIDEO, pooled=3)
        self.head = Head(VIDEO_WIDTH, classes)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, 15, 224, 224)`` to logits ``(B, classes)``."""
        return self.head(self.branch(video))


class DSCNN(nn.Module):
    """The multimodal teacher, DSCNN-I: 6,607,300 weights for eight classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.audio = AudioBranch(AUDIO)
        self.video = VisualBranch(VIDEO, pooled=3)
        self.head = Head(AUDIO_WIDTH + VIDEO_WIDTH, classes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """``(B, 3, 15, 224, 224)`` and ``(B, 15, 156)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), self.video(video)], dim=1))


class UnitsNet(nn.Module):
    """The net for action units: the head of the other nets, on the units themselves.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = Head(UNITS, classes)

    def forward(self, units: Tensor) -> Tensor:
        """``(B, 35)`` to logits ``(B, classes)``."""
        return self.head(units)


class UnitsDSCNN(nn.Module):
    """The multimodal teacher for action units: `DSCNN`, the units in place of the visual branch.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.audio = AudioBranch(AUDIO)
        self.head = Head(AUDIO_WIDTH + UNITS, classes)

    def forward(self, units: Tensor, audio: Tensor) -> Tensor:
        """``(B, 35)`` and ``(B, 15, 156)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), units], dim=1))
