"""A linear layer on embeddings, fitted by logistic regression."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import nn

from mst_distill.artifacts.progress import progress

STRENGTHS = 10.0 ** np.arange(-4, 4)
"""The values of C, the inverse of the L2 penalty, from which one is chosen."""

Labelled = tuple[np.ndarray, np.ndarray]
"""Embeddings ``(n, D)`` and labels ``(n,)``."""

NEVER = -100.0
"""The logit of a class without a training sample."""


def fit_linear_head(
    train: Labelled, valid: Labelled, classes: int, balanced: bool = False
) -> nn.Linear:
    """Fit multinomial logistic regression on standardised embeddings.

    Of the `STRENGTHS`, the one with the smallest cross-entropy on the validation samples is chosen.

    Args:
        train: The training samples.
        valid: The validation samples.
        classes: C, the number of classes.
        balanced: Whether all classes of the training samples have the same weight in total.

    Returns:
        A layer from embeddings ``(B, D)`` to logits ``(B, C)``; the standardisation is part of its
        weights.

    Raises:
        ValueError: The training samples are of fewer than two classes, or there are no validation
            samples.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    values, labels = train[0].astype(np.float64), train[1]
    if len(np.unique(labels)) < 2:
        raise ValueError("a linear layer needs labelled training samples of two classes")
    if not len(valid[1]):
        raise ValueError("a linear layer needs labelled validation samples")
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0] = 1
    standardised = (values - mean) / scale
    best, smallest = None, np.inf
    for strength in progress(STRENGTHS, "linear layer on embeddings", "penalty"):
        model = LogisticRegression(
            C=strength, max_iter=1000, class_weight="balanced" if balanced else None
        )
        with warnings.catch_warnings():
            # The penalty that needs most steps is rarely the one that is chosen.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(standardised, labels)
        weight, bias = _of_all_classes(model, classes)
        layer = weight / scale, bias - weight @ (mean / scale)
        if (loss := _cross_entropy(*layer, valid)) < smallest:
            best, smallest = layer, loss
    assert best is not None
    # Without start weights, which would take random numbers from what is trained later.
    head = nn.utils.skip_init(nn.Linear, values.shape[1], classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(best[0]))
        head.bias.copy_(torch.from_numpy(best[1]))
    return head


def _of_all_classes(model: object, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``(C, D)`` and biases ``(C,)`` of a model that may not have seen all classes."""
    coefficients, intercepts = model.coef_, model.intercept_  # type: ignore[attr-defined]
    if len(coefficients) == 1:  # two classes, of which the second has the logit
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    weight = np.zeros((classes, coefficients.shape[1]))
    bias = np.full(classes, NEVER)
    weight[model.classes_], bias[model.classes_] = coefficients, intercepts  # type: ignore[attr-defined]
    return weight, bias


def _cross_entropy(weight: np.ndarray, bias: np.ndarray, valid: Labelled) -> float:
    values, labels = valid
    logits = torch.from_numpy(values.astype(np.float64) @ weight.T + bias)
    return float(nn.functional.cross_entropy(logits, torch.from_numpy(labels.astype(np.int64))))
