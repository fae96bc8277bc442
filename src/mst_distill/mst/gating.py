"""Which specialists a sample learns from, and with which weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.mst.losses import at_least_float32, is_target, over_pixels, without_label


@dataclass(frozen=True)
class RoutingWeights:
    """The specialists that each sample of a batch learns from.

    Attributes:
        specialists: ``(B, k)``, indices from 0 to E - 1.
        weights: ``(B, k)``, in [0, 1]. The weights of a sample sum to 1, or to 0 if no specialist
            is left after `only`, which for dense labels gives each pixel its own weights:
            ``(B, k, H, W)``.
    """

    specialists: Tensor
    weights: Tensor

    def only(self, allowed: Tensor) -> RoutingWeights:
        """Set the weights of other specialists to 0 and rescale those that are left to sum to 1.

        Args:
            allowed: Whether a sample may learn from a specialist, ``(B, E)`` or ``(B, E, H, W)``,
                such as `is_correct`.
        """
        rows = torch.arange(len(allowed), device=allowed.device)[:, None]
        kept = allowed[rows, self.specialists]
        weights = over_pixels(self.weights, kept) * kept
        total = weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
        return RoutingWeights(self.specialists, weights / total)


def routing_weights(
    probabilities: Tensor, top_k: int | None, seen: Tensor | None = None
) -> RoutingWeights:
    """Select the `top_k` specialists of largest probability with equal weights, or all specialists.

    Args:
        probabilities: c, the router's softmax, ``(B, E)``.
        top_k: k. If it is None, every specialist is selected with its probability as its weight.
        seen: Whether a specialist can see a sample, ``(B, E)``; None if all can see all. The others
            get no weight; `among` makes their probabilities 0.
    """
    if top_k is None:
        specialists = torch.arange(probabilities.shape[1], device=probabilities.device)
        routing = RoutingWeights(specialists.expand(probabilities.shape), probabilities)
    else:
        specialists = probabilities.topk(top_k, dim=1).indices
        weights = torch.full_like(probabilities[:, :top_k], 1 / top_k).detach()
        routing = RoutingWeights(specialists, weights)
    return routing if seen is None else routing.only(seen)


def among(router_logits: Tensor, seen: Tensor | None) -> Tensor:
    """The router's softmax over the specialists that can see a sample, ``(B, E)``.

    Args:
        router_logits: ``(B, E)``.
        seen: ``(B, E)``; None if all can see all.
    """
    if seen is not None:
        router_logits = router_logits.masked_fill(~seen, torch.finfo(router_logits.dtype).min)
    return router_logits.softmax(dim=1)


def cross_entropies(specialists: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """The cross-entropy of every specialist on every sample, ``(B, E)``.

    For dense labels it is the mean over the labelled pixels, and 0 where there are none.

    Args:
        specialists: Logits ``(B, E, C)`` or ``(B, E, C, H, W)``.
        label: ``(B,)`` or ``(B, H, W)``.
        ignored: The label that is no target, or None.
    """
    targets = label[:, None].expand(-1, specialists.shape[1], *label.shape[1:])
    labelled = is_target(targets, ignored)
    each = F.cross_entropy(
        at_least_float32(specialists.flatten(0, 1)),
        targets.where(labelled, 0).flatten(0, 1),
        reduction="none",
    ).view(targets.shape)
    if label.dim() == 1:
        return each
    return (each * labelled).flatten(2).sum(2) / labelled.flatten(2).sum(2).clamp(min=1)


def teacher_quality(
    specialists: Tensor, label: Tensor, ignored: int | None, seen: Tensor | None = None
) -> Tensor:
    """The target r of a ``learned`` router: softmax over the specialists of -CE, ``(B, E)``.

    Without a label it is meaningless. It is 0 for specialists that cannot see a sample, unless none
    can.
    """
    fit = -cross_entropies(specialists, label, ignored)
    if seen is not None:
        fit = fit.masked_fill(~seen, torch.finfo(fit.dtype).min)
    return fit.softmax(dim=1)


def is_correct(specialists: Tensor, label: Tensor, ignored: int | None) -> Tensor:
    """Whether each specialist's largest logit is that of the label, ``(B, E)`` or ``(B, E, H, W)``.

    It is False for pixels whose label is `ignored`. If a whole sample has no label, no specialist
    is known to be wrong on it, and all count as correct.
    """
    correct = specialists.argmax(dim=2) == label[:, None]
    if ignored is None:
        return correct
    unlabelled = over_pixels(without_label(label, ignored), correct)
    return correct & (label != ignored)[:, None] | unlabelled
