"""Where a net looks: how much each place of its inputs does for what it says."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.diagnose.knowledge_sources import Say
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.batches import Inputs

GRID = 32
"""Maps finer than so many cells a side are averaged over cells, which overlap where sides do not
divide: the gradient at one pixel of a photograph is noise."""


def attribute(say: Say, inputs: Inputs, judged: Tensor | None = None) -> dict[str, Tensor]:
    """Gradient times input of the largest logit, its size at every place.

    Shrikumar et al., "Learning Important Features Through Propagating Activation Differences",
    ICML 2017, section 2.2; for a linear net without bias the parts sum to the logit before their
    sign is dropped. It is comparable between places of one modality alone: between modalities it
    tells their scale and width, see `reliance`.

    Args:
        say: Inputs to logits ``(B, C)`` or ``(B, C, H, W)``.
        inputs: Modality to ``(B, *shape)``: all that `say` reads.
        judged: ``(B, H, W)``, of dense logits: the pixels whose largest logits are summed.

    Returns:
        Modality to a figure a place, at least 0: of vectors ``(B, F)`` and matrices ``(B, F, T)``
        one an element; of maps ``(B, C, H, W)`` and videos ``(B, C, T, H, W)`` summed over the
        channels.
    """
    leaves = {name: at_least_float32(of.detach()).requires_grad_() for name, of in inputs.items()}
    with torch.enable_grad():
        # Clones, for a net may work in place on what it is given.
        logits = say({name: leaf.clone() for name, leaf in leaves.items()})
        largest = at_least_float32(logits).max(dim=1).values
        decisive = largest if judged is None else largest * judged
        gradients = torch.autograd.grad(
            decisive.sum(), list(leaves.values()), materialize_grads=True
        )
    sizes = {
        name: (gradient * leaf).detach().abs()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
    return {name: of.sum(dim=1) if of.dim() > 3 else of for name, of in sizes.items()}


def gaze(attribution: Tensor) -> np.ndarray:
    """A modality's attribution as shares that sum to 1, on a grid where it is fine.

    Args:
        attribution: ``(B, *places)``, from `attribute`.

    Returns:
        The same shape, but for sides of maps above `GRID`; even where nothing was attributed.
    """
    coarse = _coarsen(attribution.double())
    places = math.prod(coarse.shape[1:])
    total = coarse.flatten(1).sum(dim=1).view(-1, *[1] * (coarse.dim() - 1))
    shares: np.ndarray = torch.where(total > 0, coarse / total, 1 / places).cpu().numpy()
    return shares


def _coarsen(maps: Tensor) -> Tensor:
    """Means over the cells of a grid of at most `GRID` a side; vectors stay as they are."""
    if maps.dim() < 3 or max(maps.shape[-2:]) <= GRID:
        return maps
    height, width = (min(side, GRID) for side in maps.shape[-2:])
    framed = maps.flatten(1, -3) if maps.dim() > 3 else maps[:, None]
    pooled = F.adaptive_avg_pool2d(framed, (height, width))
    return pooled.view(*maps.shape[:-2], height, width)
