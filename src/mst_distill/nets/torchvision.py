"""The image classifiers of torchvision, by their names."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn


class TorchvisionNet(nn.Module):
    """A classifier of ``torchvision.models``, with random weights.

    Nothing is downloaded. The weights of a file are those of the classifier itself, without a
    prefix.

    Args:
        name: The name, for example ``resnet18``.
        classes: Width of the logits.
        arguments: Arguments of the function of that name.

    Raises:
        ValueError: There is no net of this name.
    """

    weights_prefix: ClassVar[str] = "net."

    def __init__(self, name: str, classes: int, **arguments: Any) -> None:
        from torchvision.models import get_model

        super().__init__()
        self.net: nn.Module = get_model(name, weights=None, num_classes=classes, **arguments)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` to logits ``(B, classes)``."""
        logits: Tensor = self.net(image)
        return logits
