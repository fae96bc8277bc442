"""The optimiser of a training, and how its learning rate and gradients change from step to step."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.import_path import resolve
from mst_distill.parameters import TrainingRecipe

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimisers with fused kernels on CPUs and GPUs, which leave all as it is if `found_inf` is 1."""


RATE_SCALE = "_learning_rate_scale"
"""The attribute of a module that scales the learning rate of its weights; without it, it is 1."""


SCALE = "scale"
"""The key of a parameter group with the factor of its learning rate."""


def make_optimiser(
    recipe: TrainingRecipe, trainable: nn.Module, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimiser of a recipe, fused if it is one of `FUSED`.

    With a weight decay, the weights with fewer than two axes are a group of their own without it.
    So are weights whose learning rate is scaled, see `RATE_SCALE`. Frozen weights are left out.

    Args:
        recipe: The recipe.
        trainable: The modules that are trained.
        learning_rate: The largest learning rate.

    Raises:
        ValueError: The class does not exist, or an argument is not one of its own or out of its
            range.
        TypeError: It is no optimiser.
    """
    kind: Callable[..., torch.optim.Optimizer]
    kind = resolve(recipe.optimizer.type, torch.optim.Optimizer)
    accepted = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {**recipe.optimizer.arguments, "lr": learning_rate}
    if kind in FUSED:
        arguments["fused"] = True
    default = accepted["weight_decay"].default if "weight_decay" in accepted else 0
    decays = bool(arguments.get("weight_decay", default))
    groups = [
        group for scale in _scaled_weights(trainable).items() for group in _groups(*scale, decays)
    ]
    for group in groups:
        group["lr"] = group[SCALE] * learning_rate
    try:
        return kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"training.optimizer {recipe.optimizer.type}: {error}") from error


def _scaled_weights(trainable: nn.Module) -> dict[float, list[Tensor]]:
    """The weights that are trained, by the factor of their learning rate.

    The smallest factor counts for weights that several modules share.
    """
    scales: dict[int, float] = {}
    for module in trainable.modules():
        scale = getattr(module, RATE_SCALE, 1.0)
        for weight in module.parameters(recurse=False):
            scales[id(weight)] = min(scale, scales.get(id(weight), scale))
    found: dict[float, list[Tensor]] = {}
    for weight in trainable.parameters():
        if weight.requires_grad:
            found.setdefault(scales[id(weight)], []).append(weight)
    return found


def _groups(scale: float, weights: list[Tensor], decays: bool) -> list[dict[str, Any]]:
    """Groups of an optimiser: one, or with a weight decay one for each kind of weights."""
    if not decays:
        return [{"params": weights, SCALE: scale}]
    decayed = [weight for weight in weights if weight.dim() > 1]
    others = [weight for weight in weights if weight.dim() < 2]
    groups = [
        {"params": decayed, SCALE: scale},
        {"params": others, SCALE: scale, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def check_recipe(recipe: TrainingRecipe) -> None:
    """Train a small module for one step, before hours are spent on samples.

    Raises:
        ValueError, TypeError: As in `make_optimiser`; also if the optimiser takes no step from the
            gradients alone.
    """
    net = nn.Linear(1, 1)
    optimiser = make_optimiser(recipe, net, 1e-3)
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    try:
        optimiser.step()
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"training.optimizer {recipe.optimizer.type} cannot take a step from dense gradients "
            f"alone ({error}): choose another, for example torch.optim.AdamW"
        ) from error


def rate_factor(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the largest one, in (0, 1].

    In the first ``warmup`` of the steps it rises by the same amount in every step. With the
    schedule ``cosine`` (Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts) it
    then falls, to 0 after the last step.

    Args:
        recipe: The recipe.
        step: The number of the step in the whole training, from 0.
        steps: The number of steps of the training.
    """
    if recipe.schedule == "constant":
        return 1.0
    rising = round(recipe.warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


def clip_gradients(parts: Iterable[nn.Module], largest: float) -> None:
    """Scale the gradient of each part to a norm of at most `largest`.

    Parts are clipped apart, so that each is trained as if it were alone. The host does not wait.
    """
    for part in parts:
        weights: list[Tensor] = [of for of in part.parameters() if of.grad is not None]
        if weights:
            nn.utils.clip_grad_norm_(weights, largest)
