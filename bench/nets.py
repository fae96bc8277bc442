"""Nets of AV-MNIST that apply ReLU before pooling, as the method's released implementation does.

The project's own nets pool first, which gives the same values and gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mst_distill.nets import avmnist


class ThreeLayerCNN(avmnist.ThreeLayerCNN):
    """The audio net."""

    def forward(self, audio: Tensor) -> Tensor:
        """``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        for convolution in (self.conv1, self.conv2, self.conv3):
            audio = self.pool(convolution(audio).relu())
        return self.fc1(audio.flatten(1))


class FusionCNN(avmnist.FusionCNN):
    """The multimodal teacher."""

    def forward(self, image: Tensor, audio: Tensor) -> Tensor:
        """``(B, 1, 28, 28)`` and ``(B, 1, 112, 112)`` to logits ``(B, classes)``."""
        branch = self.audio
        for convolution in (branch.conv1, branch.conv2, branch.conv3, branch.conv4):
            audio = branch.pool(convolution(audio).relu())
        audio_features = branch.average(branch.conv5(audio).relu()).flatten(1)
        features = torch.cat([self.image.features(image), audio_features], dim=1)
        return self.fc2(self.fc1(self.concatenation(features)))
