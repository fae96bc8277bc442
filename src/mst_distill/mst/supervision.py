"""How labels are used: in the loss of a net, and in the metrics by which epochs are selected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.data.samples import labelled_splits
from mst_distill.metric import ACCURACY, Metric, Terms
from mst_distill.mst.losses import accuracy, at_least_float32, cross_entropy, is_target
from mst_distill.training.run import Run


@dataclass(frozen=True)
class Supervision:
    """Cross-entropy with labels, and the metrics of validation.

    Attributes:
        ignored: The label that is no target, or None if all labels are targets.
        smoothing: The share of the probability that the target distributes equally over all
            classes, in [0, 1). Szegedy et al., "Rethinking the Inception Architecture for Computer
            Vision", CVPR 2016, section 7.
        weights: ``(C,)``, the weight of each class in the loss; None if all have the weight 1.
        valid_weights: The same for the validation split, with which the mean of right predictions
            is the mean recall of the classes.
        metric: The metric that decides.
    """

    ignored: int | None = None
    smoothing: float = 0.0
    weights: Tensor | None = None
    valid_weights: Tensor | None = None
    metric: Metric = ACCURACY

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Mean cross-entropy over the samples, or over the pixels, that have a label.

        With weights it is divided by their number, not by the sum of their weights: the losses of
        micro-batches then add up to that of the batch.

        Args:
            logits: ``(B, C)`` or ``(B, C, H, W)``.
            label: ``(B,)`` or ``(B, H, W)``, int64.

        Returns:
            A scalar; 0 if nothing has a label.
        """
        if self.weights is None and not self.smoothing:
            return cross_entropy(logits, label, self.ignored)
        labelled = is_target(label, self.ignored)
        each = F.cross_entropy(
            at_least_float32(logits),
            label.where(labelled, 0),
            reduction="none",
            label_smoothing=self.smoothing,
        )
        # A sample has the weight of its label. PyTorch's `weight` would give the smoothed part of
        # its target the weights of all classes, and train towards the rare ones.
        weight = labelled if self.weights is None else _weight_of(label, labelled, self.weights)
        return (each * weight.to(each.dtype)).sum() / labelled.sum().clamp(min=1)

    def metrics(self, logits: Tensor, label: Tensor) -> dict[str, Tensor | Terms]:
        """The metrics ``accuracy`` and ``ce``, with class weights ``macro_recall``, and `metric`.

        The mean of ``macro_recall`` over all samples of the split is the mean recall of its
        classes. With dense labels, a mean over batches is that only if all have as many labelled
        pixels, as for ``accuracy``.
        """
        metrics: dict[str, Tensor | Terms] = {
            "accuracy": accuracy(logits, label, self.ignored),
            "ce": cross_entropy(logits, label, self.ignored),
        }
        if self.valid_weights is not None:
            metrics["macro_recall"] = self._weighted_accuracy(logits, label, self.valid_weights)
        if self.metric.terms_of is not None:
            terms = self.metric.terms_of(logits, label, self.ignored)
            metrics[self.metric.name] = Terms(self.metric, terms)
        return metrics

    def _weighted_accuracy(self, logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
        labelled = is_target(label, self.ignored)
        right = logits.argmax(dim=1) == label
        total = (right * _weight_of(label, labelled, weights)).sum().double()
        return total / labelled.sum().clamp(min=1)


def supervision_of(run: Run, needed: Iterable[str] | None = None) -> Supervision:
    """The supervision of a run's recipe.

    Args:
        run: The run.
        needed: The modalities that the validation batches read; by default the target.
    """
    recipe = run.recipe
    if recipe.class_weights == "equal":
        return Supervision(run.ignored, recipe.label_smoothing, metric=run.metric)
    rows = {
        "train": np.flatnonzero(labelled_splits(run.samples, run.splits) == "train"),
        "valid": run.rows("valid", [run.target] if needed is None else needed),
    }
    weights = {split: _weights_of(run, of) for split, of in rows.items()}
    return Supervision(
        run.ignored, recipe.label_smoothing, weights["train"], weights["valid"], run.metric
    )


def _weights_of(run: Run, rows: np.ndarray) -> Tensor:
    labels = run.samples.labels[rows].ravel()
    if run.samples.ignored_label is not None:
        labels = labels[labels != run.samples.ignored_label]
    weights = balanced_weights(labels.astype(np.int64), len(run.samples.classes))
    return torch.from_numpy(weights).to(run.device)


def _weight_of(label: Tensor, labelled: Tensor, weights: Tensor) -> Tensor:
    """The weight of each label by its class; 0 where it is no target."""
    return weights[label.where(labelled, 0)] * labelled


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """The weights with which all classes that occur have the same weight in total, ``(C,)``.

    They are n / (C' n_c) for C' classes that occur, n_c times each and n times together; 0 for the
    others. The mean weight of a sample is 1.

    Args:
        labels: ``(n,)``, int64, in [0, C).
        classes: C.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * counts.clip(min=1)), 0.0)
