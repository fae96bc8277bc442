"""Weights that torchvision publishes, downloaded once to PyTorch's hub folder and verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum


def load_published(net: nn.Module, weights: WeightsEnum, instead: str) -> None:
    """Load the published weights of a torchvision net, and download them first if necessary.

    Args:
        net: A net of the architecture to which the weights belong.
        weights: An entry of one of torchvision's weight enums.
        instead: An alternative for the user, as a clause that follows "or" in the error messages.

    Raises:
        ConnectionError: The weights are not on this machine and cannot be downloaded completely;
            the message names the path at which they are expected.
        ValueError: The file is damaged or holds the weights of another net; the message names it.
    """
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        state = weights.get_state_dict(
            map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        net.load_state_dict(state)
    except Exception as error:  # Download, file format and state dict raise many types of errors.
        if file.is_file():
            # torch's own error message advises to load the file with code execution enabled.
            raise ValueError(
                f"{file} is damaged or does not hold {weights} ({type(error).__name__}). Remove "
                f"it, so that it is downloaded again, or {instead}"
            ) from error
        raise ConnectionError(
            f"{file} does not exist, and {weights.url} cannot be downloaded ({error}). Without a "
            f"network connection, copy the file there, or {instead}"
        ) from error
