"""Nets for sound and video, as in the method's released implementation.

The paper uses them for RAVDESS (AudioBranchNet, VisualBranchNet, DSCNN-I) and for VGGSound-50k
(-VGGS). The two sets of nets differ only in their sizes, which the parameters of the two
environments define.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.nets.branches import AudioBranch, Head, VisualBranch


class AudioBranchNet(nn.Module):
    """The unimodal net for audio.

    Args:
        classes: Width of the logits.
        channels: See `AudioBranch`.
        frames: See `AudioBranch`.
    """

    def __init__(self, classes: int, channels: Sequence[int], frames: int) -> None:
        super().__init__()
        self.branch = AudioBranch(channels, frames)
        self.head = Head(self.branch.width, classes)

    def forward(self, audio: Tensor) -> Tensor:
        """Map ``(B, C, frames)`` to logits ``(B, classes)``."""
        return self.head(self.branch(audio))


class VisualBranchNet(nn.Module):
    """The unimodal net for video.

    Args:
        classes: Width of the logits.
        channels: See `VisualBranch`.
        pooled: See `VisualBranch`.
        size: See `VisualBranch`.
    """

    def __init__(
        self, classes: int, channels: Sequence[int], pooled: int, size: Sequence[int]
    ) -> None:
        super().__init__()
        self.branch = VisualBranch(channels, pooled, size)
        self.head = Head(self.branch.width, classes)

    def forward(self, video: Tensor) -> Tensor:
        """Map ``(B, C, T, H, W)`` to logits ``(B, classes)``."""
        return self.head(self.branch(video))


class DSCNN(nn.Module):
    """The multimodal teacher: features of both branches, concatenated with audio first.

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
        """Map ``(B, C, T, H, W)`` and ``(B, C, frames)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), self.video(video)], dim=1))
