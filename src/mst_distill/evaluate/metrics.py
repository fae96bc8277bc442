"""Metrics of a model, computed from its metric counts."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    jaccard_score,
    precision_score,
    recall_score,
)


def measure(counts: dict[str, Any], classes: tuple[str, ...], dense: bool) -> dict[str, Any]:
    """Compute the metrics of a model from its metric counts.

    Each entry of the confusion matrix goes to scikit-learn as one pair of labels, with its count as
    the sample weight.

    Args:
        counts: From `MetricAccumulator.summary`.
        classes: Class names in order.
        dense: Whether to add the mean intersection over union.

    Returns:
        ``accuracy``, ``weighted_f1``, ``macro_recall``, ``kappa``, ``nll`` (nats),
        ``calibration_error``, ``precision``, ``recall`` and ``f1`` (a number for each class name)
        and, if `dense`, ``mean_iou``. If the counts have a temperature, also ``temperature``,
        ``nll_scaled``, ``calibration_error_scaled`` and ``accuracy_at_80``. If another metric than
        the accuracy decides, also that one, NaN if it is not defined. A class that is never a
        target is left out of all means; its recall is 0.
    """
    confusion = np.array(counts["confusion"])
    true, predicted = (axis.ravel() for axis in np.indices(confusion.shape))
    weights = confusion.ravel()
    present = np.flatnonzero(confusion.sum(axis=1))
    pairs: dict[str, Any] = {"sample_weight": weights, "zero_division": 0.0}
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    by_class = {
        name: dict(zip(classes, values.tolist(), strict=True))
        for name, score in scores.items()
        for values in [score(true, predicted, average=None, **pairs)]
    }
    metrics = {
        "accuracy": accuracy_score(true, predicted, sample_weight=weights),
        "weighted_f1": f1_score(true, predicted, average="weighted", **pairs),
        "macro_recall": recall_score(true, predicted, average="macro", labels=present, **pairs),
        # Kappa is NaN if one class is the only target and the only prediction; report it as 0.
        "kappa": np.nan_to_num(cohen_kappa_score(true, predicted, sample_weight=weights)),
        "nll": counts["nll"],
        "calibration_error": calibration_error(counts["calibration"]),
    }
    if "temperature" in counts:
        metrics |= {name: counts[name] for name in ("temperature", "nll_scaled", "accuracy_at_80")}
        metrics["calibration_error_scaled"] = calibration_error(counts["calibration_scaled"])
    if dense:
        metrics["mean_iou"] = jaccard_score(
            true, predicted, average="macro", labels=present, **pairs
        )
    for name, value in counts.get("metric", {}).items():
        metrics[name] = np.nan if value is None else value
    return {name: float(value) for name, value in metrics.items()} | by_class


def commonest_class(counts: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the commonest class of the targets, and the accuracy of always predicting it.

    Args:
        counts: From `MetricAccumulator.summary`, of any model.
        classes: Class names in order.

    Returns:
        ``class``, and ``accuracy`` in [0, 1].
    """
    targets = np.array(counts["confusion"]).sum(axis=1)
    commonest = int(targets.argmax())
    return {"class": classes[commonest], "accuracy": float(targets[commonest] / targets.sum())}


def calibration_error(calibration: dict[str, list[float]]) -> float:
    """Return the expected calibration error.

    It is the mean of |accuracy - confidence| over the bins, weighted by their counts: Guo et al.,
    "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    Args:
        calibration: For each bin ``count``, and the sums ``confidence`` and ``correct``.

    Returns:
        A number in [0, 1].
    """
    confidence, correct = np.array(calibration["confidence"]), np.array(calibration["correct"])
    return float(np.abs(correct - confidence).sum() / max(sum(calibration["count"]), 1.0))
