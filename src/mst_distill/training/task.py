"""The interface between a stage and the training loop: loss terms, and metrics for validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mst_distill.metric import Terms
from mst_distill.parameters import TrainingRecipe
from mst_distill.training.batches import Batch
from mst_distill.training.optimisation import make_optimiser


def backward(loss: Tensor) -> None:
    """Compute gradients in the types of the forward pass.

    The forward pass runs inside autocast. There, the products of a backward pass are computed in
    bfloat16 even where the forward pass has turned autocast off for the sake of precision.
    """
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward()


class Task(ABC):
    """One stage of training: the modules that are trained, and their loss.

    Attributes:
        trainable: The modules that are trained, and no others. The optimiser receives its
            parameters, and the selected epochs store its state. Frozen nets are not in it.
        needs_labels: Whether the task learns nothing from a sample without a label, or cannot be
            computed on it.
        follows_schedule: Whether the recipe sets the learning rate of each step.
        epochs: The number of epochs of the training in progress; `fit` sets it.
    """

    trainable: nn.Module
    epochs: int
    needs_labels: ClassVar[bool] = False
    follows_schedule: ClassVar[bool] = True

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the training loss, each a scalar; ``loss`` is the one to minimise.

        A term may be missing if no sample of the batch has what it needs.
        """

    def descend(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add the gradient of the loss, times `share`, to the gradients of the weights.

        Args:
            batch: A batch or a micro-batch.
            share: The share of a micro-batch in the samples of its batch.

        Returns:
            The terms of `losses`, detached and without the factor `share`.
        """
        terms = self.losses(batch)
        if terms["loss"].requires_grad:  # not if no sample has what a term needs
            backward(share * terms["loss"])
        return {name: term.detach() for name, term in terms.items()}

    def optimiser(self, learning_rate: float, recipe: TrainingRecipe) -> torch.optim.Optimizer:
        """The optimiser, by default that of the recipe."""
        return make_optimiser(recipe, self.trainable, learning_rate)

    def parts(self) -> list[nn.Module]:
        """The modules whose gradients are clipped apart; by default each net of a collection."""
        several = isinstance(self.trainable, (nn.ModuleList, nn.ModuleDict))
        return list(self.trainable.children()) if several else [self.trainable]

    @abstractmethod
    def validate(self, batch: Batch) -> Mapping[str, Tensor | Terms]:
        """The metrics of a validation batch: means over its samples, scalars, or terms."""

    def learner(self, weight: str) -> str:
        """The module that a weight belongs to, as error messages name it; by default its path.

        Args:
            weight: Path of a parameter of `trainable`.
        """
        return weight

    def state(self) -> dict[str, Any]:
        """What steps and epochs change in addition to `trainable`; nothing by default.

        A state that was taken before a step stays valid, and `load_state` reverts the step: what
        steps modify in place is copied.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`."""
        return

    def constants(self) -> tuple[float, ...] | None:
        """The numbers on which a step depends and which `end_epoch` changes.

        None, the default, if a step must not be captured in a CUDA graph: if it depends on other
        values of the host that change, replaces tensors that later steps read, or waits.
        """
        return None

    def start_epoch(self, epoch: int) -> None:
        """Called before `epoch`, counted from 0, or the rest of it. Does nothing by default."""
        return

    def end_epoch(self, epoch: int) -> None:
        """Called after `epoch`, counted from 0, to update schedules. Does nothing by default."""
        return
