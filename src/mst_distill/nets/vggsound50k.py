"""The nets of VGGSound-50k, as the method's released implementation has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mst_distill.nets.branches import AudioBranch, Head, VisualBranch

AUDIO = (10, 16, 32, 64)
"""Channels of the audio branch: the ten seconds of a clip come in as channels."""

AUDIO_WIDTH = 64 * 4
"""Its features: the 128 numbers of a second become four."""

VIDEO = (512, 256, 128, 64)
"""Channels of the visual branch."""

VIDEO_WIDTH = 64 * 2
"""Its features: 10 x 7 x 7 places become 2 x 1 x 1."""


class AudioBranchNet(nn.Module):
    """The audio net, AudioBranchNet-VGGS: 164,797 weights for 141 classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.branch = AudioBranch(AUDIO)
        self.head = Head(AUDIO_WIDTH, classes)

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, 10, 128)`` to logits ``(B, classes)``."""
        return self.head(self.branch(audio))


class VisualBranchNet(nn.Module):
    """The video net, VisualBranchNet-VGGS: 4,761,549 weights for 141 classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.branch = VisualBranch(VIDEO, pooled=2)
        self.head = Head(VIDEO_WIDTH, classes)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 512, 10, 7, 7)`` to logits ``(B, classes)``."""
        return self.head(self.branch(video))


class DSCNN(nn.Module):
    """The multimodal teacher, DSCNN-VGGS-I: 4,851,965 weights for 141 classes.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.audio = AudioBranch(AUDIO)
        self.video = VisualBranch(VIDEO, pooled=2)
        self.head = Head(AUDIO_WIDTH + VIDEO_WIDTH, classes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """``(B, 512, 10, 7, 7)`` and ``(B, 10, 128)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), self.video(video)], dim=1))
