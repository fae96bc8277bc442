"""How much a sample hears of each specialist, and who deserves to be heard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.mst.losses import at_least_float32


@dataclass(frozen=True)
class Heard:
    """The specialists that a batch's samples hear.

    Attributes:
        chosen: ``(B, k)``, which.
        weights: ``(B, k)``, how much; a sample's sum to 1, or to 0 if it hears next to nobody. Of
            dense labels every pixel hears for itself once they are `gated`: ``(B, k, H, W)``.
    """

    chosen: Tensor
    weights: Tensor

    def gated(self, right: Tensor) -> Heard:
        """The same without those that are wrong; what they had is shared by the others.

        Args:
            right: ``(B, E)``, or ``(B, E, H, W)``, whether a specialist is.
        """
        rows = torch.arange(len(right), device=right.device)[:, None]
        well = right[rows, self.chosen]
        weights = over_places(self.weights, well) * well
        return Heard(self.chosen, weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12))


def weigh(preference: Tensor, picked: int | None) -> Heard:
    """The `picked` specialists of largest preference, best first and all as much; or all.

    Args:
        preference: ``(B, E)``, rows that sum to 1.
        picked: k; without it all are heard, each as much as it is preferred.
    """
    if picked is None:
        specialists = torch.arange(preference.shape[1], device=preference.device)
        return Heard(specialists.expand(preference.shape), preference)
    chosen = preference.topk(picked, dim=1).indices
    return Heard(chosen, torch.full_like(preference[:, :picked], 1 / picked).detach())


def cross_entropies(specialists: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """CE of every specialist on every sample, ``(B, E)``; dense ones over the judged pixels.

    Args:
        specialists: Logits ``(B, E, C)`` or ``(B, E, C, H, W)``.
        label: ``(B,)`` or ``(B, H, W)``.
        ignored: The label that is no target, or None.
    """
    targets = label[:, None].expand(-1, specialists.shape[1], *label.shape[1:])
    judged = torch.ones_like(targets, dtype=torch.bool) if ignored is None else targets != ignored
    each = F.cross_entropy(
        at_least_float32(specialists.flatten(0, 1)),
        targets.where(judged, 0).flatten(0, 1),
        reduction="none",
    ).view(targets.shape)
    if label.dim() == 1:
        return each
    return (each * judged).flatten(2).sum(2) / judged.flatten(2).sum(2).clamp(min=1)


def merit(specialists: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """r, softmax over the specialists of -CE, ``(B, E)``: what a good router would prefer."""
    return (-cross_entropies(specialists, label, ignored)).softmax(dim=1)


def right(specialists: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """Whether each specialist's largest logit is the label's, ``(B, E)`` or ``(B, E, H, W)``.

    Where the label is the one that is ignored nobody is.
    """
    well = specialists.argmax(dim=2) == label[:, None]
    return well if ignored is None else well & (label != ignored)[:, None]


def over_places(weights: Tensor, like: Tensor) -> Tensor:
    """Weights with so many axes of length 1 behind them that they go with what has places."""
    return weights.reshape(*weights.shape, *[1] * (like.dim() - weights.dim()))
