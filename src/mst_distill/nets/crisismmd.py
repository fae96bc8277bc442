"""The nets of CrisisMMD, as in the method's released implementation: MLPs over features."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureMLP(nn.Module):
    """The unimodal net, MLP-Vb and MLP-Tb: 2,627,080 and 1,316,360 weights.

    These counts hold for image features of width 2048, text features of width 768 and eight
    classes.

    Args:
        classes: Width of the logits.
        width: Width of the features.
        hidden: Width of the first layer, at least 2; the next is half as wide.
    """

    def __init__(self, classes: int, width: int, hidden: int = 1024) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, hidden // 2)
        self.logits = nn.Linear(hidden // 2, classes)

    def features(self, values: Tensor) -> Tensor:
        """Map ``(B, width)`` to ``(B, hidden / 2)``."""
        return self.fc2(self.fc1(values).relu()).relu()

    def forward(self, values: Tensor) -> Tensor:
        """Map ``(B, width)`` to logits ``(B, classes)``."""
        return self.logits(self.features(values))


class FusionMLP(nn.Module):
    """The multimodal teacher, MLP-I: 4,593,416 weights for widths 2048 and 768, eight classes.

    Args:
        classes: Width of the logits.
        image: Width of the image features.
        text: Width of the text features.
        hidden: Width of each modality's first layer, at least 4; the last hidden layer has a
            quarter of it.
    """

    def __init__(self, classes: int, image: int, text: int, hidden: int = 1024) -> None:
        super().__init__()
        self.image = FeatureMLP(classes, image, hidden)
        self.text = FeatureMLP(classes, text, hidden)
        del self.image.logits, self.text.logits
        self.fc1 = nn.Linear(2 * (hidden // 2), hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, hidden // 4)
        self.logits = nn.Linear(hidden // 4, classes)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Map ``(B, image)`` and ``(B, text)`` to logits ``(B, classes)``."""
        features = torch.cat([self.image.features(image), self.text.features(text)], dim=1)
        return self.logits(self.fc2(self.fc1(features).relu()).relu())
