"""A control with the optimiser of C2KD, for the question whether the teacher or SGD gains."""

from __future__ import annotations

import torch

from mst_distill.compare.context import TrialContext
from mst_distill.compare.methods.c2kd import MOMENTUM, POWER
from mst_distill.compare.methods.controls import LabelSmoothing
from mst_distill.parameters import TrainingRecipe


class SGDControl(LabelSmoothing):
    """Cross-entropy with smoothed targets, SGD with momentum, and C2KD's decay of its rate.

    Args:
        context: The student and the batches.
        smoothing: As in `LabelSmoothing`; with 0 it is the baseline with another optimiser.
        learning_rate: The learning rate at the start.
    """

    follows_schedule = False

    def __init__(
        self, context: TrialContext, smoothing: float = 0.0, learning_rate: float = 0.03
    ) -> None:
        super().__init__(context, smoothing)
        self._rate = learning_rate

    def optimiser(self, learning_rate: float, recipe: TrainingRecipe) -> torch.optim.Optimizer:
        """Create SGD with momentum, whatever the recipe."""
        self._sgd = torch.optim.SGD(self.trainable.parameters(), self._rate, MOMENTUM)
        return self._sgd

    def end_epoch(self, epoch: int) -> None:
        """Reduce the learning rate."""
        for group in self._sgd.param_groups:
            group["lr"] = self._rate * (1 - (epoch + 1) / self.epochs) ** POWER
