"""Calibration by a temperature fitted on the validation split, and abstention by confidence."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

SMALLEST, LARGEST = 0.01, 100.0
"""Bounds of a temperature. A student of distillation is often underconfident: its temperature is
below 1."""

LARGEST_DRAW = 100_000
"""The largest number of validation samples or pixels that temperatures are fitted on."""

COVERAGE = 0.8
"""The coverage of the metric ``accuracy_at_80``."""


def fit_temperature(
    logits: np.ndarray | Tensor, labels: np.ndarray | Tensor, ignored: int | None = None
) -> float:
    """Return the temperature T that minimises the negative log-likelihood of softmax(logits / T).

    This is temperature scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017,
    section 4.2. It never changes a prediction. The likelihood is convex in 1 / T, so that the
    minimum over log T is the only one; it is computed in float64.

    Args:
        logits: ``(n, C)`` or ``(n, C, H, W)``, finite.
        labels: ``(n,)`` or ``(n, H, W)``.
        ignored: The label that is no target, or None.

    Returns:
        T in [`SMALLEST`, `LARGEST`]. It is 1, which leaves the logits as they are, if these labels
        cannot determine it: if there are none, or if no other class ever has a larger logit than
        the label. Without any error the likelihood grows with every sharpening, and the number of
        errors to expect remains unknown. If the logits carry no information, T is near `LARGEST`.
    """
    scores, target = torch.as_tensor(logits).movedim(1, -1), torch.as_tensor(labels)
    if ignored is not None:
        scores, target = scores[target != ignored], target[target != ignored]
    scores, target = scores.reshape(-1, scores.shape[-1]).double(), target.reshape(-1, 1).long()
    margins = scores - scores.gather(1, target)
    if not (margins > 0).any():
        return 1.0

    def nll(log_temperature: float) -> float:
        return float((margins * math.exp(-log_temperature)).logsumexp(dim=1).mean())

    bounds = (math.log(SMALLEST), math.log(LARGEST))
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return math.exp(found.x)


def draw_positions(count: int, seed: int) -> np.ndarray:
    """Draw at most `LARGEST_DRAW` of the numbers below `count`, ascending and without repetition.

    Args:
        count: The number of labelled samples or pixels.
        seed: The same seed draws the same numbers.
    """
    if count <= LARGEST_DRAW:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, LARGEST_DRAW, replace=False))


def risk_coverage(
    confidence: np.ndarray, correct: np.ndarray, labelled: np.ndarray | None = None
) -> pd.DataFrame:
    """Return the accuracy on the most confident samples against their share of all samples.

    See El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 11,
    2010; the risk is 1 - accuracy. Samples of the same confidence are answered together.

    Args:
        confidence: ``(n,)``, in [0, 1].
        correct: ``(n,)``, 0 or 1; for dense labels the number of correct pixels.
        labelled: ``(n,)``, for dense labels the number of labelled pixels: a picture is answered
            whole, and counts with its pixels. By default 1.

    Returns:
        A row for each confidence, the largest first: ``coverage``, ``accuracy``, both in [0, 1],
        and ``confidence``, the smallest one that is answered.
    """
    table = pd.DataFrame(
        {
            "confidence": np.asarray(confidence, dtype=float),
            "correct": np.asarray(correct, dtype=float),
            "labelled": 1.0 if labelled is None else np.asarray(labelled, dtype=float),
        }
    )
    steps = table[table["labelled"] > 0].groupby("confidence").sum()[::-1].cumsum()
    return pd.DataFrame(
        {
            "coverage": (steps["labelled"] / steps["labelled"].max()).to_numpy(),
            "accuracy": (steps["correct"] / steps["labelled"]).to_numpy(),
            "confidence": steps.index.to_numpy(),
        }
    )


def accuracy_at_coverage(curve: pd.DataFrame, coverage: float) -> float:
    """Return the accuracy at the smallest coverage of a curve that is at least `coverage`.

    Args:
        curve: From `risk_coverage`.
        coverage: In [0, 1].

    Returns:
        A number in [0, 1], or NaN if the curve has no rows.
    """
    reached = curve.loc[curve["coverage"] >= coverage, "accuracy"]
    return float(reached.iloc[0]) if len(reached) else math.nan


def threshold_for_accuracy(
    confidence: np.ndarray, correct: np.ndarray, wanted: float
) -> float | None:
    """Return the smallest confidence from which on the answers have the wanted accuracy.

    Args:
        confidence: As in `risk_coverage`, of validation samples.
        correct: As in `risk_coverage`.
        wanted: The accuracy, in [0, 1].

    Returns:
        A confidence of the samples: those with at least this confidence have at least the wanted
        accuracy. None if no confidence has, or if there are no samples.

    Raises:
        ValueError: `wanted` is not in [0, 1].
    """
    if not 0 <= wanted <= 1:
        raise ValueError(f"the wanted accuracy is {wanted}; it must lie between 0 and 1")
    curve = risk_coverage(confidence, correct)
    reached = curve.loc[curve["accuracy"] >= wanted, "confidence"]
    return float(reached.iloc[-1]) if len(reached) else None
