"""Metric counts of one model, accumulated batch by batch, for labels of samples or of pixels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mst_distill.evaluate.calibration import COVERAGE, accuracy_at_coverage, risk_coverage
from mst_distill.metric import ACCURACY, Metric, Terms

TERMS = "metric_terms"
"""The column of predictions with what the metric that decides is computed from, an array for each
sample; see `Metric`."""


class MetricAccumulator:
    """Accumulate the confusion matrix, negative log-likelihood and calibration bins of one model.

    Args:
        classes: C, the number of classes.
        bins: Number of calibration bins, of equal width over the confidence in [0, 1].
        ignored: The label that is no target, or None. A labelled sample or pixel for which it is
            predicted counts as wrong.
        device: The device of the logits.
        temperature: T, from `fit_temperature`, to evaluate softmax(logits / T) as well; or None.
        metric: The metric that decides.
    """

    def __init__(
        self,
        classes: int,
        bins: int,
        ignored: int | None,
        device: torch.device,
        temperature: float | None = None,
        metric: Metric = ACCURACY,
    ) -> None:
        self._ignored = ignored
        self._temperature = temperature
        self._confusion = torch.zeros(classes, classes, dtype=torch.long, device=device)
        self._as_is = _Probabilities(bins, device)
        self._scaled = _Probabilities(bins, device)
        self._answers: list[Tensor] = []
        self._metric = metric
        self._terms: list[Terms] = []

    def update(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Add a batch and return the outcome of each of its samples.

        Args:
            logits: ``(B, C)`` or ``(B, C, H, W)``.
            label: ``(B,)`` or ``(B, H, W)``.

        Returns:
            Tensors of shape ``(B,)``: ``prediction`` (-1 for dense labels), ``confidence`` and
            ``nll`` (nats; for dense labels means over the labelled pixels), ``correct`` and
            ``labelled`` (numbers of pixels; with one label for each sample, both are 0 or 1). With
            a temperature also ``confidence_scaled`` and ``nll_scaled``, and with a metric that has
            terms `TERMS`, ``(B, K)``.
        """
        terms = None
        if self._metric.terms_of is not None:
            terms = self._metric.terms_of(logits, label, self._ignored)
        logits = logits.double()
        prediction = logits.argmax(dim=1)
        labelled = torch.ones_like(label, dtype=torch.bool)
        if self._ignored is not None:
            labelled = label != self._ignored
        correct = (prediction == label) & labelled
        self._add(label[labelled], prediction[labelled])
        count = labelled.flatten(1).sum(1) if label.dim() > 1 else labelled.long()
        outcome = {
            "prediction": prediction if label.dim() == 1 else torch.full_like(count, -1),
            **self._as_is.update(logits, label, labelled, correct, count),
            "correct": _per_sample(correct.double()).long(),
            "labelled": count,
        }
        if self._temperature is not None:
            logits = logits / self._temperature
            scaled = self._scaled.update(logits, label, labelled, correct, count)
            outcome |= {f"{name}_scaled": values for name, values in scaled.items()}
            answer = (outcome[name] for name in ("confidence_scaled", "correct", "labelled"))
            self._answers.append(torch.stack([values.double().cpu() for values in answer]))
        if terms is not None:
            self._terms.append(Terms(self._metric, terms.cpu()))
            outcome[TERMS] = terms
        return outcome

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON values.

        Returns:
            ``confusion`` (C rows, one for each true class), ``nll`` (mean in nats) and
            ``calibration`` (for each bin ``count``, and the sums ``confidence`` and ``correct``).
            With a temperature also ``temperature``, ``nll_scaled``, ``calibration_scaled``, and
            ``accuracy_at_80``, the accuracy on the 80 % of the samples with the largest scaled
            confidence. With a metric that has terms also ``metric``, its value by its name, None if
            it is not defined on these samples.
        """
        labelled = self._confusion.sum()
        summary = {"confusion": self._confusion.tolist(), **self._as_is.summary(labelled)}
        if self._temperature is not None:
            scaled = self._scaled.summary(labelled)
            summary |= {f"{name}_scaled": value for name, value in scaled.items()}
            summary["temperature"] = self._temperature
            answers = torch.cat([torch.empty(3, 0), *self._answers], dim=1)
            curve = risk_coverage(*answers.numpy())
            summary["accuracy_at_80"] = accuracy_at_coverage(curve, COVERAGE)
        if self._terms:
            terms = Terms.join(self._terms).values.numpy()
            value = self._metric.value_if_defined(terms)
            summary["metric"] = {self._metric.name: None if math.isnan(value) else value}
        return summary

    def _add(self, label: Tensor, prediction: Tensor) -> None:
        classes = len(self._confusion)
        counts = torch.bincount(label * classes + prediction, minlength=classes**2)
        self._confusion += counts.view(classes, classes)


class _Probabilities:
    """The negative log-likelihood and the calibration bins of a model's probabilities."""

    def __init__(self, bins: int, device: torch.device) -> None:
        self._bins = bins
        self._nll = torch.zeros((), dtype=torch.float64, device=device)
        self._calibration = torch.zeros(3, bins, dtype=torch.float64, device=device)

    def update(
        self, logits: Tensor, label: Tensor, labelled: Tensor, correct: Tensor, count: Tensor
    ) -> dict[str, Tensor]:
        """Add a batch and return ``confidence`` and ``nll``, means over each sample's labels."""
        log_probability = F.log_softmax(logits, dim=1)
        confidence = log_probability.amax(dim=1).exp()
        # The ignored label need not be a valid class index, so class 0 stands in for it.
        nll = F.nll_loss(log_probability, label.where(labelled, 0), reduction="none") * labelled
        self._nll += nll.sum()
        values = confidence[labelled]
        bin_index = (values * self._bins).long().clamp(max=self._bins - 1)
        for row, add in enumerate((torch.ones_like(values), values, correct[labelled].double())):
            self._calibration[row].scatter_add_(0, bin_index, add)
        return {
            "confidence": _per_sample(confidence * labelled) / count.clamp(min=1),
            "nll": _per_sample(nll) / count.clamp(min=1),
        }

    def summary(self, labelled: Tensor) -> dict[str, Any]:
        """Return ``nll``, the mean over all labels, and ``calibration`` as JSON values."""
        count, confidence, correct = self._calibration.tolist()
        return {
            "nll": float(self._nll / labelled.clamp(min=1)),
            "calibration": {"count": count, "confidence": confidence, "correct": correct},
        }


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).sum(dim=1) if values.dim() > 1 else values
