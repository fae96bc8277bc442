"""What the training loop asks of a stage: a loss with named terms, and figures to judge it by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mst_distill.training.batches import Batch


class Task(ABC):
    """One stage of training: which modules learn, and from what.

    Attributes:
        trainable: The modules that learn, and nothing else: its parameters go to the optimiser, its
            state is what is kept. Frozen nets stay outside.
    """

    trainable: nn.Module

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss, each a scalar; ``loss`` is the one to descend."""

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add the loss' gradient, times `share`, to that on the weights; the terms of `losses`."""
        terms = self.losses(batch)
        (share * terms["loss"]).backward()
        return {name: term.detach() for name, term in terms.items()}

    def optimiser(self, learning_rate: float) -> torch.optim.Optimizer:
        """What descends: Adam with default betas, no decay, no schedule."""
        return torch.optim.Adam(self.trainable.parameters(), lr=learning_rate, fused=True)

    @abstractmethod
    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar figures of a validation batch, means over its samples."""

    def learner(self, weight: str) -> str:
        """How an error calls the module that a weight belongs to; by default its path.

        Args:
            weight: Path of a parameter of `trainable`.
        """
        return weight

    def state(self) -> dict[str, Any]:
        """What steps and epochs change beside `trainable`, for `load_state`; nothing by default.

        Steps replace what is in it and never write into it: so it stays what it was.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        return

    def end_epoch(self, epoch: int) -> None:
        """Called after `epoch`, counted from 0: the place for schedules. Nothing by default."""
        return
