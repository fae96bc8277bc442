"""A tally: all that a model's figures need, summed batch by batch, for samples or for pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Tally:
    """Confusion matrix, negative log-likelihood and calibration bins of one model.

    Args:
        classes: C.
        bins: Bins of equal width over the confidence in [0, 1].
        ignored: The label that is no target, or None. Predicting it is simply wrong.
        device: Where logits come from.
    """

    def __init__(self, classes: int, bins: int, ignored: int | None, device: torch.device) -> None:
        self._ignored = ignored
        self._bins = bins
        self._confusion = torch.zeros(classes, classes, dtype=torch.long, device=device)
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        self._calibration = torch.zeros(3, bins, dtype=torch.float64, device=device)

    def update(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Add a batch and say how each of its samples fared.

        Args:
            logits: ``(B, C)`` or ``(B, C, H, W)``.
            label: ``(B,)`` or ``(B, H, W)``.

        Returns:
            Each ``(B,)``: ``prediction`` (-1 for dense labels), ``confidence`` and ``nll`` (means
            over the judged pixels), ``correct`` and ``judged`` (numbers of pixels; 0 or 1, and 1,
            for one label a sample).
        """
        log_probability = F.log_softmax(logits.double(), dim=1)
        confidence, prediction = log_probability.max(dim=1)
        confidence = confidence.exp()
        judged = torch.ones_like(label, dtype=torch.bool)
        if self._ignored is not None:
            judged = label != self._ignored
        # An ignored label need not be a class at all.
        nll = F.nll_loss(log_probability, label.where(judged, 0), reduction="none") * judged
        correct = (prediction == label) & judged
        self._add(label[judged], prediction[judged], confidence[judged], correct[judged])
        self._nll += nll.sum()
        count = judged.flatten(1).sum(1) if label.dim() > 1 else judged.long()
        return {
            "prediction": prediction if label.dim() == 1 else torch.full_like(count, -1),
            "confidence": _per_sample(confidence * judged) / count.clamp(min=1),
            "nll": _per_sample(nll) / count.clamp(min=1),
            "correct": _per_sample(correct.double()).long(),
            "judged": count,
        }

    def summary(self) -> dict[str, Any]:
        """JSON values: ``confusion`` (C rows of true class), ``nll``, and ``calibration``.

        ``nll`` is the mean in nats; ``calibration`` has for every bin ``count``, and the sums
        ``confidence`` and ``correct``.
        """
        count, confidence, correct = self._calibration.tolist()
        return {
            "confusion": self._confusion.tolist(),
            "nll": float(self._nll / self._confusion.sum().clamp(min=1)),
            "calibration": {"count": count, "confidence": confidence, "correct": correct},
        }

    def _add(self, label: Tensor, prediction: Tensor, confidence: Tensor, correct: Tensor) -> None:
        classes = len(self._confusion)
        cells = torch.bincount(label * classes + prediction, minlength=classes**2)
        self._confusion += cells.view(classes, classes)
        place = (confidence * self._bins).long().clamp(max=self._bins - 1)
        for row, value in enumerate((torch.ones_like(confidence), confidence, correct.double())):
            self._calibration[row].scatter_add_(0, place, value)


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).sum(dim=1) if values.dim() > 1 else values
