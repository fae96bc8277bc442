"""Saliency maps: how much each position of a net's inputs contributes to its largest logit."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.diagnose.knowledge_sources import LogitsFn
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.batches import Inputs

GRID = 32
"""Maps with longer sides are averaged over the cells of a grid with this many cells on a side,
because the gradient at a single pixel of a photograph is noise. Cells overlap where the side is not
a multiple of `GRID`."""


def attribute(
    logits_of: LogitsFn, inputs: Inputs, labelled: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute |gradient x input| of the largest logit at every position.

    Shrikumar et al., "Learning Important Features Through Propagating Activation Differences",
    ICML 2017, section 2.2. For a linear net without bias the signed products sum to the logit.
    Only positions of one modality can be compared. Between modalities the values depend on their
    scale and width, see `reliance`.

    Args:
        logits_of: Function from inputs to logits ``(B, C)`` or ``(B, C, H, W)``.
        inputs: Modality to ``(B, *shape)``, for all modalities that `logits_of` reads.
        labelled: ``(B, H, W)``, for dense logits: the pixels whose largest logits are summed.

    Returns:
        Modality to values of at least 0: for vectors ``(B, F)`` and matrices ``(B, F, T)`` one for
        each element, for maps ``(B, C, H, W)`` and videos ``(B, C, T, H, W)`` their sum over the
        channels.
    """
    leaves = {name: at_least_float32(of.detach()).requires_grad_() for name, of in inputs.items()}
    with torch.enable_grad():
        # Clones, because a net may modify its inputs in place.
        logits = logits_of({name: leaf.clone() for name, leaf in leaves.items()})
        largest = at_least_float32(logits).max(dim=1).values
        explained = largest if labelled is None else largest * labelled
        gradients = torch.autograd.grad(
            explained.sum(), list(leaves.values()), materialize_grads=True
        )
    sizes = {
        name: (gradient * leaf).detach().abs()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return {name: of.sum(dim=1) if of.dim() > 3 else of for name, of in sizes.items()}


def saliency(attribution: Tensor) -> np.ndarray:
    """Normalise a modality's attribution to shares that sum to 1, on a grid if it is fine.

    Args:
        attribution: ``(B, *positions)``, from `attribute`.

    Returns:
        The same shape, except that map sides above `GRID` become `GRID`. The shares are equal where
        the whole attribution is 0.
    """
    coarse = _coarsen(attribution.double())
    positions = math.prod(coarse.shape[1:])
    total = coarse.flatten(1).sum(dim=1).view(-1, *[1] * (coarse.dim() - 1))
    shares: np.ndarray = torch.where(total > 0, coarse / total, 1 / positions).cpu().numpy()
    return shares


def _coarsen(maps: Tensor) -> Tensor:
    """Average maps over a grid of at most `GRID` cells on a side; vectors stay unchanged."""
    if maps.dim() < 3 or max(maps.shape[-2:]) <= GRID:
        return maps
    height, width = (min(side, GRID) for side in maps.shape[-2:])
    framed = maps.flatten(1, -3) if maps.dim() > 3 else maps[:, None]
    pooled = F.adaptive_avg_pool2d(framed, (height, width))
    return pooled.view(*maps.shape[:-2], height, width)
