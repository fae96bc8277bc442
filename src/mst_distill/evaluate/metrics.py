"""Figures of merit, from a model's tally."""

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


def measure(tally: dict[str, Any], classes: tuple[str, ...], dense: bool) -> dict[str, Any]:
    """Turn a tally into figures.

    scikit-learn does the counting: every cell of the confusion matrix is one pair of labels, and
    its count the pair's weight.

    Args:
        tally: `Tally.summary`.
        classes: Class names in order.
        dense: Add the mean intersection over union.

    Returns:
        ``accuracy``, ``weighted_f1``, ``macro_recall``, ``kappa``, ``nll`` (nats),
        ``calibration_error``, ``precision`` (class name to figure) and, if dense, ``mean_iou``. A
        class that is never a target counts in no mean.
    """
    confusion = np.array(tally["confusion"])
    true, predicted = (axis.ravel() for axis in np.indices(confusion.shape))
    weights = confusion.ravel()
    present = np.flatnonzero(confusion.sum(axis=1))
    pairs: dict[str, Any] = {"sample_weight": weights, "zero_division": 0.0}
    precision = precision_score(true, predicted, average=None, **pairs)
    figures = {
        "accuracy": accuracy_score(true, predicted, sample_weight=weights),
        "weighted_f1": f1_score(true, predicted, average="weighted", **pairs),
        "macro_recall": recall_score(true, predicted, average="macro", labels=present, **pairs),
        # It is undefined where one class is all there is and all that is said.
        "kappa": np.nan_to_num(cohen_kappa_score(true, predicted, sample_weight=weights)),
        "nll": tally["nll"],
        "calibration_error": calibration_error(tally["calibration"]),
    }
    if dense:
        figures["mean_iou"] = jaccard_score(
            true, predicted, average="macro", labels=present, **pairs
        )
    return {name: float(value) for name, value in figures.items()} | {
        "precision": dict(zip(classes, precision.tolist(), strict=True))
    }


def calibration_error(calibration: dict[str, list[float]]) -> float:
    """Expected calibration error: mean over bins of |accuracy - confidence|, by their counts.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    Args:
        calibration: ``count``, and the sums ``confidence`` and ``correct``, a figure a bin.

    Returns:
        In [0, 1].
    """
    confidence, correct = np.array(calibration["confidence"]), np.array(calibration["correct"])
    return float(np.abs(correct - confidence).sum() / max(sum(calibration["count"]), 1.0))
