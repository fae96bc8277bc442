"""Nets for sound and moving pictures, as the method's released implementation has them.

The paper has them on RAVDESS (AudioBranchNet, VisualBranchNet, DSCNN-I) and on VGGSound-50k
(-VGGS); they differ in numbers alone, which the parameters of the two environments give.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.nets.branches import AudioBranch, Head, VisualBranch


class AudioBranchNet(nn.Module):
    """The net of one modality, audio.

    Args:
        classes: Width of the logits.
        channels: As in `AudioBranch`.
        frames: As in `AudioBranch`.
    """

    def __init__(self, classes: int, channels: Sequence[int], frames: int) -> None:
        super().__init__()
        self.branch = AudioBranch(channels, frames)
        self.head = Head(self.branch.width, classes)

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, C, frames)`` to logits ``(B, classes)``."""
        return self.head(self.branch(audio))


class VisualBranchNet(nn.Module):
    """The net of one modality, video.

    Args:
        classes: Width of the logits.
        channels: As in `VisualBranch`.
        pooled: As in `VisualBranch`.
        size: As in `VisualBranch`.
    """

    def __init__(
        self, classes: int, channels: Sequence[int], pooled: int, size: Sequence[int]
    ) -> None:
        super().__init__()
        self.branch = VisualBranch(channels, pooled, size)
        self.head = Head(self.branch.width, classes)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to logits ``(B, classes)``."""
        return self.head(self.branch(video))


class DSCNN(nn.Module):
    """The multimodal teacher: both branches, audio first.

    Args:
        classes: Width of the logits.
        audio: Arguments of `AudioBranch`.
        video: Arguments of `VisualBranch`.
    """

    def __init__(self, classes: int, audio: Mapping[str, Any], video: Mapping[str, Any]) -> None:
        super().__init__()
        self.audio = AudioBranch(**audio)
        self.video = VisualBranch(**video)
        self.head = Head(self.audio.width + self.video.width, classes)

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` and ``(B, C, frames)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), self.video(video)], dim=1))
