"""Optimisers, learning rates and clipping, against figures by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from mst_distill.parameters import TrainingRecipe
from mst_distill.training.optimisation import (
    check_recipe,
    clip_gradients,
    make_optimiser,
    rate_factor,
)

ADAMW = {"type": "torch.optim.AdamW", "arguments": {"weight_decay": 0.05}}
COSINE = TrainingRecipe(schedule="cosine", warmup=0.2)


def test_the_default_is_adam_with_its_default_arguments_on_all_weights() -> None:
    net = nn.Linear(3, 2)
    optimiser = make_optimiser(TrainingRecipe(), net, 0.01)
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    assert group["params"] == list(net.parameters())
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.01, (0.9, 0.999), 0)
    assert group["fused"]


@pytest.mark.parametrize("arguments", [{"weight_decay": 0.05}, {}])
def test_only_weights_with_two_axes_decay(arguments: dict[str, float]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    recipe = TrainingRecipe(optimizer={"type": "torch.optim.AdamW", "arguments": arguments})
    decayed, others = make_optimiser(recipe, net, 0.01).param_groups
    assert decayed["params"] == [net[0].weight, net[3].weight]
    assert others["params"] == [net[0].bias, net[1].weight, net[1].bias, net[3].bias]
    assert decayed["weight_decay"] == arguments.get("weight_decay", 0.01)  # the default of AdamW
    assert others["weight_decay"] == 0


def test_a_class_that_is_not_fused_and_one_of_the_user_are_optimisers() -> None:
    for path in ("torch.optim.NAdam", "toy_optimisers.Own"):
        optimiser = make_optimiser(TrainingRecipe(optimizer={"type": path}), nn.Linear(1, 1), 0.5)
        assert not optimiser.defaults.get("fused")


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    found = [rate_factor(COSINE, step, 10) for step in range(10)]
    falling = [(1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert found == pytest.approx([1 / 3, 2 / 3, *falling])
    assert all(0 < factor <= 1 for factor in found)


def test_without_a_schedule_the_rate_is_constant() -> None:
    assert {rate_factor(TrainingRecipe(), step, 7) for step in range(7)} == {1.0}


@pytest.mark.parametrize(("warmup", "steps"), [(0.0, 1), (0.9, 1), (0.99, 3), (0.5, 2)])
def test_the_rate_of_a_short_training_is_positive(warmup: float, steps: int) -> None:
    recipe = TrainingRecipe(schedule="cosine", warmup=warmup)
    assert all(0 < rate_factor(recipe, step, steps) <= 1 for step in range(steps))


def test_each_part_is_clipped_apart() -> None:
    parts = [nn.Linear(2, 1, bias=False, dtype=torch.float64) for _ in range(3)]
    for part, gradient in zip(parts, ([3.0, 4.0], [0.3, 0.4]), strict=False):
        part.weight.grad = torch.tensor([gradient], dtype=torch.float64)
    clip_gradients(parts, 1.0)
    torch.testing.assert_close(parts[0].weight.grad, torch.tensor([[0.6, 0.8]]).double())
    assert parts[1].weight.grad.tolist() == [[0.3, 0.4]]
    assert parts[2].weight.grad is None


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"type": "torch.optim.AdamV"}, r"class in torch\.optim 'AdamV'.*did you mean 'Adam"),
        ({"type": "torch.nn.Linear"}, "must be derived from torch.optim"),
        (
            {"type": "torch.optim.Adam", "arguments": {"momentum": 0.9}},
            r"training\.optimizer torch\.optim\.Adam: .*momentum",
        ),
        ({"type": "torch.optim.SGD", "arguments": {"momentum": -1}}, "training.*SGD: .*momentum"),
        ("adamw", "'adamw' cannot be imported"),
        ("torch.optim.LBFGS", "LBFGS cannot take a step from dense gradients alone"),
        ("torch.optim.SparseAdam", "SparseAdam cannot take a step from dense gradients alone"),
    ],
)
def test_an_optimiser_that_cannot_be_used_is_an_error(optimizer: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        check_recipe(TrainingRecipe(optimizer=optimizer))
