"""The backward pass of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from mst_distill.training.task import backward


def gradient(go: object, weight: Tensor) -> Tensor:
    """The gradient of a loss whose products have autocast turned off in the forward pass."""
    own = weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = (own @ own.T).square().mean()
        go(loss)
    return own.grad


def test_gradients_of_precise_products_are_not_rounded_to_bfloat16() -> None:
    torch.manual_seed(0)
    weight = torch.randn(32, 16)
    exact = gradient(backward, weight.double())
    found = gradient(backward, weight)
    assert (found - exact).norm() < 1e-6 * exact.norm()
    # The loss is one for which it matters where the backward pass runs.
    rounded = gradient(Tensor.backward, weight)
    assert (rounded - exact).norm() > 1e-4 * exact.norm()
