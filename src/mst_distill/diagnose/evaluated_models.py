"""The models that `diagnose` evaluates on the held-out split: teachers, students and mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mst_distill.diagnose.routing_probabilities import routing_probabilities, weights_of
from mst_distill.evaluate.predictions import EvaluatedModels, teacher_title
from mst_distill.mst.features import FeatureExtractor
from mst_distill.mst.losses import at_least_float32
from mst_distill.training.batches import Inputs
from mst_distill.training.run import Run

MIXTURES = {
    "teachers": "uniform mixture of teachers",
    "specialists": "uniform mixture of specialists",
}
"""Group of sources to the name of the uniform mixture of its members."""

ROUTED = "specialists as routed"
"""Name of the mixture of the specialists with the router's weights."""


@dataclass(frozen=True)
class EvaluatedMixtures(EvaluatedModels):
    """The models of a run, the uniform mixtures of its sources, and the routed mixture.

    Attributes:
        extractor: Feature extractor of the model ``student``.
        router: The run's router, which reads the student's output.
        top_k: k, the number of specialists that are selected for a sample. If it is None, all
            specialists are weighted by their routing probabilities.
    """

    extractor: FeatureExtractor
    router: nn.Module
    top_k: int | None

    def place(self, run: Run) -> None:
        """Move every net to the run's device and set it to eval mode."""
        super().place(run)
        run.place(self.router).eval()

    def logits(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the logits of every model and mixture by its name."""
        logits = super().logits(inputs)
        groups = {
            "teachers": [teacher_title(name) for name in self.teachers],
            "specialists": list(self.ensemble.names),
        }
        c = routing_probabilities(self.router, self.extractor(inputs))
        mixed = {
            MIXTURES[group]: mixture(
                [logits[name] for name in names], c.new_full((len(c), len(names)), 1 / len(names))
            )
            for group, names in groups.items()
        }
        specialists = [logits[name] for name in groups["specialists"]]
        return {**logits, **mixed, ROUTED: mixture(specialists, weights_of(c, self.top_k))}


def mixture(logits: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the logarithm of a weighted mean of probabilities.

    Args:
        logits: E tensors ``(B, C, ...)``.
        weights: ``(B, E)``; each row sums to 1.

    Returns:
        ``(B, C, ...)``, logits whose softmax is the weighted mean.
    """
    shape = (-1, *[1] * (logits[0].dim() - 1))
    mixed = torch.full_like(at_least_float32(logits[0]), -torch.inf)
    for of_source, weight in zip(logits, at_least_float32(weights).unbind(dim=1), strict=True):
        log_probability = at_least_float32(of_source).log_softmax(dim=1)
        mixed = torch.logaddexp(mixed, log_probability + weight.log().view(shape))
    return mixed
