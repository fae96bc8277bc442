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


def make_optimiser(
    recipe: TrainingRecipe, trainable: nn.Module, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimiser of a recipe, fused if it is one of `FUSED`.

    With a weight decay, the weights with fewer than two axes are a group of their own without it.

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
    weights: list[Any] = list(trainable.parameters())
    default = accepted["weight_decay"].default if "weight_decay" in accepted else 0
    if arguments.get("weight_decay", default):
        decayed = [weight for weight in weights if weight.dim() > 1]
        others = [weight for weight in weights if weight.dim() < 2]
        weights = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        weights = [group for group in weights if group["params"]]
    try:
        return kind(weights, **arguments)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"training.optimizer {recipe.optimizer.type}: {error}") from error


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
