"""Metric counts of one model, accumulated batch by batch, for labels of samples or of pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class MetricAccumulator:
    """Accumulate the confusion matrix, negative log-likelihood and calibration bins of one model.

    Args:
        classes: C, the number of classes.
        bins: Number of calibration bins, of equal width over the confidence in [0, 1].
        ignored: The label that is no target, or None. A labelled sample or pixel for which it is
            predicted counts as wrong.
        device: The device of the logits.
    """

    def __init__(self, classes: int, bins: int, ignored: int | None, device: torch.device) -> None:
        self._ignored = ignored
        self._bins = bins
        self._confusion = torch.zeros(classes, classes, dtype=torch.long, device=device)
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        self._calibration = torch.zeros(3, bins, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Add a batch and return the outcome of each of its samples.

        Args:
            logits: ``(B, C)`` or ``(B, C, H, W)``.
            label: ``(B,)`` or ``(B, H, W)``.

        Returns:
            Tensors of shape ``(B,)``: ``prediction`` (-1 for dense labels), ``confidence`` and
            ``nll`` (nats; for dense labels means over the labelled pixels), ``correct`` and
            ``labelled`` (numbers of pixels; with one label for each sample, both are 0 or 1).
        """
        log_probability = F.log_softmax(logits.double(), dim=1)
        confidence, prediction = log_probability.max(dim=1)
        confidence = confidence.exp()
        labelled = torch.ones_like(label, dtype=torch.bool)
        if self._ignored is not None:
            labelled = label != self._ignored
        # The ignored label need not be a valid class index, so class 0 stands in for it.
        nll = F.nll_loss(log_probability, label.where(labelled, 0), reduction="none") * labelled
        correct = (prediction == label) & labelled
        self._add(label[labelled], prediction[labelled], confidence[labelled], correct[labelled])
        self._nll += nll.sum()
        count = labelled.flatten(1).sum(1) if label.dim() > 1 else labelled.long()
        return {
            "prediction": prediction if label.dim() == 1 else torch.full_like(count, -1),
            "confidence": _per_sample(confidence * labelled) / count.clamp(min=1),
            "nll": _per_sample(nll) / count.clamp(min=1),
            "correct": _per_sample(correct.double()).long(),
            "labelled": count,
        }

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON values.

        Returns:
            ``confusion`` (C rows, one for each true class), ``nll`` (mean in nats) and
            ``calibration`` (for each bin ``count``, and the sums ``confidence`` and ``correct``).
        """
        count, confidence, correct = self._calibration.tolist()
        return {
            "confusion": self._confusion.tolist(),
            "nll": float(self._nll / self._confusion.sum().clamp(min=1)),
            "calibration": {"count": count, "confidence": confidence, "correct": correct},
        }

    def _add(self, label: Tensor, prediction: Tensor, confidence: Tensor, correct: Tensor) -> None:
        classes = len(self._confusion)
        counts = torch.bincount(label * classes + prediction, minlength=classes**2)
        self._confusion += counts.view(classes, classes)
        bin_index = (confidence * self._bins).long().clamp(max=self._bins - 1)
        for row, value in enumerate((torch.ones_like(confidence), confidence, correct.double())):
            self._calibration[row].scatter_add_(0, bin_index, value)


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).sum(dim=1) if values.dim() > 1 else values
