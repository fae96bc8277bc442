"""Weights that torchvision publishes: fetched once, kept in PyTorch's hub folder, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torchvision.models import WeightsEnum


def load_published(net: nn.Module, weights: WeightsEnum, instead: str) -> None:
    """Give a net of torchvision's its published weights.

    Args:
        net: What the weights are for.
        weights: Which.
        instead: What else the user can do, for the errors; a clause behind "or".

    Raises:
        ConnectionError: They are neither on this machine nor can be fetched whole; says where they
            were looked for.
        ValueError: The file that is there is damaged or of another net; the message names it.
    """
    import torch

    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        state = weights.get_state_dict(
            map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        net.load_state_dict(state)
    except Exception as error:  # whatever torch meets on the way to a file, and in it
        if file.is_file():
            # torch's own advice would be to let the file run code.
            raise ValueError(
                f"{file} holds no whole {weights} ({type(error).__name__}). Remove it, so that it "
                f"is fetched anew, or {instead}"
            ) from error
        raise ConnectionError(
            f"{weights.url} is not in {file}, and cannot be fetched ({error}). Without a network "
            f"bring it there, or {instead}"
        ) from error
