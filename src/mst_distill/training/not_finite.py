"""Finds values that are not finite, and describes them for an error message."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mst_distill.training.batches import Batch

CHECKED_STEPS = 100
"""The number of steps on a GPU after which the host looks whether all of them were finite."""


@dataclass(frozen=True)
class Step:
    """What a step of training has computed before the optimiser changes the weights.

    Attributes:
        number: The number of the step in its epoch, from 0.
        entry: `Batch.entry` of its samples, ``(B,)``.
        terms: The names of the loss terms.
        weights: The names of the weights that have a gradient.
        values: ``(T + W,)``, the terms and the norms of the gradients.
    """

    number: int
    entry: Tensor
    terms: tuple[str, ...]
    weights: tuple[str, ...]
    values: Tensor

    @classmethod
    def of(
        cls, number: int, entry: Tensor, terms: Mapping[str, Tensor], trainable: nn.Module
    ) -> Step:
        """The step that has just computed the gradients of the weights of `trainable`."""
        norms = gradient_norms(trainable)
        values = torch.stack([*terms.values(), *norms.values()])
        return cls(number, entry, tuple(terms), tuple(norms), values)

    def problem(self) -> tuple[str, list[str]]:
        """The value that is not finite, and the names of the weights if it is a gradient."""
        terms, norms = self.values.split([len(self.terms), len(self.weights)])
        if found := find_not_finite(dict(zip(self.terms, terms, strict=True))):
            return found, []
        values = dict(zip(self.weights, norms.tolist(), strict=True))
        names = [name for name, value in values.items() if not math.isfinite(value)]
        return f"is {values[names[0]]}", names


class FiniteSteps:
    """Finds the first step with a value that is not finite, before it changes any weight.

    On a CPU every step is checked in `guard`. On a GPU the host would have to wait for every step.
    There, a flag on the GPU stays set from the first such step on and keeps a fused optimiser from
    changing anything, and the host looks at it after `CHECKED_STEPS` steps.

    Args:
        optimiser: The optimiser, whose steps take the flag into account.
        device: The device of the training.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, device: torch.device) -> None:
        self._steps: list[Step] = []
        self._flag: Tensor | None = None
        if device.type == "cuda" and optimiser.defaults.get("fused"):
            self._flag = torch.zeros((), device=device)
            optimiser.found_inf = self._flag  # type: ignore[attr-defined]

    @property
    def on_device(self) -> bool:
        """Whether no step makes the host wait."""
        return self._flag is not None

    def guard(self, step: Step) -> Step | None:
        """Keep the optimiser from taking a step that is not finite; return it if the host knows."""
        if self._flag is None:
            return None if step.values.isfinite().all() else step
        torch.maximum(self._flag, (~step.values.isfinite()).any().float(), out=self._flag)
        return None

    def add(self, step: Step) -> Step | None:
        """Add a step that was taken; return the first that was not finite, if the host looks."""
        if self._flag is None:
            return None
        self._steps.append(step)
        return None if len(self._steps) < CHECKED_STEPS else self.first()

    def first(self) -> Step | None:
        """Look at the steps since the last look; return the first that is not finite, or None."""
        steps, self._steps = self._steps, []
        if not steps or not self._flag:
            return None
        return next((step for step in steps if not step.values.isfinite().all()), None)


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
