"""Transforms of users, of which some break a rule."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Noise:
    """Adds normal noise."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def __call__(self, sample: Tensor) -> Tensor:
        return sample + self.scale * torch.randn_like(sample)


class NoiseOfNumPy:
    """Draws from a generator that is not PyTorch's."""

    def __call__(self, sample: Tensor) -> Tensor:
        return sample + np.random.rand()  # noqa: NPY002 - what a user's transform may do


class Coin:
    """Flips or not, by Python's own generator."""

    def __call__(self, sample: Tensor) -> Tensor:
        return sample.flip(-1) if random.random() < 0.5 else sample


class Previous:
    """Depends on the sample that it was called with before."""

    def __init__(self) -> None:
        self.before = 0.0

    def __call__(self, sample: Tensor) -> Tensor:
        mixed = sample + self.before
        self.before = float(sample.mean())
        return mixed


class Longer:
    """Changes the shape."""

    def __call__(self, sample: Tensor) -> Tensor:
        return torch.cat([sample, sample], dim=-1)


class Doubled:
    """Changes the type."""

    def __call__(self, sample: Tensor) -> Tensor:
        return sample.double()


class Infinite:
    """Has no finite result for a sample in which a value is above `above`."""

    def __init__(self, above: float = -1e9) -> None:
        self.above = above

    def __call__(self, sample: Tensor) -> Tensor:
        return sample / 0 if sample.max() > self.above else sample


class NoTensor:
    """Has an array as its result."""

    def __call__(self, sample: Tensor) -> Any:
        return sample.numpy()


class Failing:
    """Cannot be applied."""

    def __call__(self, sample: Tensor) -> Tensor:
        raise RuntimeError("no such axis")


class Uncallable:
    """Is no transform."""


class Shift:
    """Moves pictures and labels to the right and fills the uncovered columns with 0."""

    def __call__(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        columns = int(torch.randint(1, 3, ()))
        moved = {name: torch.roll(value, columns, dims=-1) for name, value in of.items()}
        for value in moved.values():
            value[..., :columns] = 0
        return moved


class LabelLost:
    """Returns less than it was called with."""

    def __call__(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in of.items() if name != "label"}


class LabelsMixed:
    """Makes labels that are no classes."""

    def __call__(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**of, "label": of["label"] + 10}


class LabelsBlended:
    """Averages the labels of neighbours."""

    def __call__(self, of: Mapping[str, Tensor]) -> dict[str, Tensor]:
        label = of["label"]
        return {**of, "label": (label + label.roll(1, -1)) // 2}
