"""The nets of RAVDESS with action units: those of `audiovisual`, with units in place of video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.nets.branches import AudioBranch, Head

UNITS = 35
"""Number of action units of a face."""


class UnitsNet(nn.Module):
    """The unimodal net for action units: the head of the other nets, applied to the units.

    Args:
        classes: Width of the logits.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = Head(UNITS, classes)

    def forward(self, units: Tensor) -> Tensor:
        """Map ``(B, 35)`` to logits ``(B, classes)``."""
        return self.head(units)


class UnitsDSCNN(nn.Module):
    """The multimodal teacher: `DSCNN` with the action units in place of the visual branch.

    Args:
        classes: Width of the logits.
        audio: Arguments of `AudioBranch`.
    """

    def __init__(self, classes: int, audio: Mapping[str, Any]) -> None:
        super().__init__()
        self.audio = AudioBranch(**audio)
        self.head = Head(self.audio.width + UNITS, classes)

    def forward(self, units: Tensor, audio: Tensor) -> Tensor:
        """Map ``(B, 35)`` and ``(B, C, frames)`` to logits ``(B, classes)``."""
        return self.head(torch.cat([self.audio(audio), units], dim=1))
