"""Finds values that are not finite, and describes them for an error message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mst_distill.training.batches import Batch


def find_not_finite(values: Mapping[str, Tensor]) -> str:
    """Name and value of the first value that is not finite; empty if all are finite.

    ``loss`` is the sum of the other terms. It is named only if all of these are finite.
    """
    finite = torch.stack([value.detach() for value in values.values()]).isfinite()
    if finite.all():
        return ""
    names = [name for name, ok in zip(values, finite.tolist(), strict=True) if not ok]
    name = min(names, key=lambda name: name == "loss")
    return f"{name} is {float(values[name])}"


def list_some(names: Sequence[str], most: int) -> str:
    """The first `most` names, followed by the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def describe_ranges(batch: Batch) -> str:
    """The range of a batch's values by modality, and what to do if it is wide."""
    has = batch.present
    values = {name: of[has[name]] if name in has else of for name, of in batch.inputs.items()}
    ends = {name: of.aminmax() for name, of in sorted(values.items()) if of.numel()}
    ranges = [f"{float(low):.3g} to {float(high):.3g} in {n!r}" for n, (low, high) in ends.items()]
    if not ranges:
        return ""
    return (
        f". Their values range from {', from '.join(ranges)}: if a modality is far from unit "
        f"scale, rescale it in the `read` of its source"
    )


def gradient_norms(trainable: nn.Module) -> dict[str, Tensor]:
    """The norm of each weight's gradient.

    A norm is finite if all entries of the gradient are, unless the sum of their squares overflows.
    """
    named = [(name, weight.grad) for name, weight in trainable.named_parameters()]
    gradients = {name: grad for name, grad in named if grad is not None}
    if not gradients:
        return {}
    # One call for all weights costs a few kernels instead of one for each weight.
    return dict(zip(gradients, torch._foreach_norm(list(gradients.values())), strict=True))
