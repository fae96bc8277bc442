"""A linear model of the student's modality, by which an under-trained baseline is noticed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mst_distill.data.samples import Samples, are_unlabelled, rows_having
from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.evaluate.calibration import draw_positions, fit_temperature
from mst_distill.metric import ACCURACY, Metric

LARGEST_SAMPLES = 10_000
"""The largest number of training samples."""

LARGEST_NUMBERS = 2**26
"""The largest number of values that are in memory at a time: 512 MiB of float64."""

LEAST_SAMPLES = 20
"""The smallest number of training samples for each class; with fewer, nothing is fitted."""

LARGEST_WIDTH = 1024
"""Wider samples are reduced to `COMPONENTS` principal components."""

COMPONENTS = 256

SLICE = 1024
"""The largest number of samples that are evaluated at a time."""


def evaluate_linear_model(
    samples: Samples,
    splits: pd.DataFrame,
    target: str,
    bins: int,
    seed: int,
    metric: Metric = ACCURACY,
) -> dict[str, Any]:
    """Fit multinomial logistic regression on standardised values, and evaluate it.

    The default L2 penalty of scikit-learn applies (C = 1). Large data are reduced: at most
    `LARGEST_SAMPLES` training samples and `LARGEST_NUMBERS` values are used.

    Args:
        samples: The store; one label for each sample.
        splits: The run's splits.
        target: The modality.
        bins: Number of calibration bins.
        seed: Selects the training samples if there are too many.
        metric: The metric that decides.

    Returns:
        `MetricAccumulator.summary` on the test split, with a temperature from the validation split,
        and ``training_samples``, the number of samples that the model was fitted on. An empty dict
        if these are too few, or of one class.
    """
    array = samples.modalities[target]
    width = int(np.prod(array.shape[1:]))
    train = rows_having(samples, splits, "train", [target])
    train = train[~are_unlabelled(samples, splits)[train]]
    rows = _training_rows(train, width, seed)
    if len(rows) < LEAST_SAMPLES * len(samples.classes) or np.ptp(samples.labels[rows]) == 0:
        return {}
    model = _new_model(width, len(rows), seed)
    with warnings.catch_warnings():
        # Of a model that is only a landmark, the last digits do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_flat(array, rows), samples.labels[rows])
    logits_of = partial(_logits, model, array, len(samples.classes))
    valid = rows_having(samples, splits, "valid", [target])
    valid = valid[draw_positions(len(valid), seed)]
    parts = _parts(valid, width)
    logits = np.concatenate([np.empty((0, len(samples.classes))), *map(logits_of, parts)])
    temperature = fit_temperature(logits, samples.labels[valid], samples.ignored_label)
    counts = MetricAccumulator(
        len(samples.classes), bins, samples.ignored_label, torch.device("cpu"), temperature, metric
    )
    for part in _parts(rows_having(samples, splits, "test", [target]), width):
        counts.update(torch.from_numpy(logits_of(part)), torch.from_numpy(samples.labels[part]))
    return {**counts.summary(), "training_samples": len(rows)}


def _logits(model: Pipeline, array: np.ndarray, classes: int, rows: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of all classes, ``(n, C)``."""
    # A class without a training sample has a probability near 0.
    logits = np.full((len(rows), classes), -100.0)
    logits[:, model.classes_] = model.predict_log_proba(_flat(array, rows))
    return logits


def _parts(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Yield the rows in parts whose values fit into the memory."""
    length = max(1, min(SLICE, LARGEST_NUMBERS // width))
    for start in range(0, len(rows), length):
        yield rows[start : start + length]


def _training_rows(rows: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Return all rows of the training split, or a random part of them in ascending order."""
    largest = max(1, min(LARGEST_SAMPLES, LARGEST_NUMBERS // width))
    if len(rows) <= largest:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, largest, replace=False))


def _new_model(width: int, count: int, seed: int) -> Pipeline:
    steps: list[Any] = [StandardScaler()]
    if width > LARGEST_WIDTH:
        steps.append(PCA(min(COMPONENTS, count), random_state=seed))
    return make_pipeline(*steps, LogisticRegression(max_iter=500))


def _flat(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.asarray(array[rows], dtype=np.float64).reshape(len(rows), -1)
