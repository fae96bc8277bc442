"""Everybody who is asked about the held-out split: who taught, who learnt, and mixtures of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mst_distill.diagnose.routing_probabilities import preference, weights_of
from mst_distill.evaluate.predictions import Cast, teacher_title
from mst_distill.mst.features import Observer
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.batches import Inputs
from mst_distill.training.run import Run

MIXTURES = {
    "teachers": "uniform mixture of teachers",
    "specialists": "uniform mixture of specialists",
}
"""A group of sources to what the mixture of all of them is called."""

PICKED = "specialists as routed"
"""The mixture with the router's weights; the one specialist that it picks, where it picks one."""


@dataclass(frozen=True)
class Company(Cast):
    """A run's models, with uniform mixtures and what the router makes of the specialists.

    Attributes:
        observer: Of the model ``student``.
        router: Of the run; it reads what the student makes of samples.
        picked: k, how many specialists it picks for a sample; none: it weighs all.
    """

    observer: Observer
    router: nn.Module
    picked: int | None

    def place(self, run: Run) -> None:
        """Bring every net to the run's device, in eval mode."""
        super().place(run)
        run.place(self.router).eval()

    def logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Inputs to the logits of every model, by its name."""
        said = super().logits(inputs)
        groups = {
            "teachers": [teacher_title(name) for name in self.teachers],
            "specialists": list(self.panel.names),
        }
        c = preference(self.router, self.observer(inputs))
        mixed = {
            MIXTURES[group]: mixture(
                [said[name] for name in names], c.new_full((len(c), len(names)), 1 / len(names))
            )
            for group, names in groups.items()
        }
        specialists = [said[name] for name in groups["specialists"]]
        return {**said, **mixed, PICKED: mixture(specialists, weights_of(c, self.picked))}


def mixture(logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Logarithms of a weighted mean of probabilities.

    Args:
        logits: E of them, ``(B, C, ...)`` each.
        weights: ``(B, E)``, a row's sum being 1.

    Returns:
        ``(B, C, ...)``, logits whose softmax is that mean.
    """
    shape = (-1, *[1] * (logits[0].dim() - 1))
    mixed = torch.full_like(at_least_float32(logits[0]), -torch.inf)
    for of, weight in zip(logits, at_least_float32(weights).unbind(dim=1), strict=True):
        said = at_least_float32(of).log_softmax(dim=1)
        mixed = torch.logaddexp(mixed, said + weight.log().view(shape))
    return mixed
