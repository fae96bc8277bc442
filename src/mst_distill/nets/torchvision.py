"""The image classifiers of torchvision, by their names."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from torch import Tensor, nn

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""The nets with auxiliary classifiers, which give several outputs in training, and their names."""

OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
"""The names of DenseNet's layers in files from before torchvision 0.3."""


class TorchvisionNet(nn.Module):
    """A classifier of ``torchvision.models``, with random weights.

    Nothing is downloaded. The weights of a file are those of the classifier itself, without a
    prefix. Auxiliary classifiers (GoogLeNet, Inception) are left out of the net, and their weights
    out of a file. The older names of DenseNet's layers are converted.

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
        if name in AUXILIARY:
            arguments = {"aux_logits": False, "init_weights": True, **arguments}
        self.net: nn.Module = get_model(name, weights=None, num_classes=classes, **arguments)
        self._auxiliary = AUXILIARY.get(name, ())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Convert the names of a file before PyTorch loads it."""
        inner = f"{prefix}net."
        for key in [key for key in state_dict if key.startswith(inner)]:
            name, value = key.removeprefix(inner), state_dict.pop(key)
            if not name.startswith(self._auxiliary):
                state_dict[inner + OLD_DENSE.sub(r"\1\2", name)] = value
        super()._load_from_state_dict(state_dict, prefix, *more)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``(B, 3, H, W)`` to logits ``(B, classes)``."""
        logits: Tensor = self.net(image)
        return logits
