"""Outcomes of several models on the same held-out samples, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class PredictionMatrix:
    """A table of predictions with one column for each model; n samples, K models.

    Attributes:
        models: Model names, in the order of the columns.
        ids: ``(n,)`` sample ids.
        labels: ``(n,)`` class indices, -1 if labels are dense.
        labelled: ``(n,)``, number of labelled pixels; 0 or 1 with one label for each sample.
        correct: ``(n, K)``, number of these that are correct; 0 or 1 with one label per sample.
        nll: ``(n, K)``, nats; for dense labels the mean over the labelled pixels.
        groups: ``(n,)``, what is resampled together; see `sampling_units`.
    """

    models: tuple[str, ...]
    ids: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    correct: np.ndarray
    nll: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> PredictionMatrix:
        """Build it from a table with one row for each sample and model, of `evaluate_models`."""
        models = tuple(dict.fromkeys(predictions["model"]))
        tables = [predictions[predictions["model"] == model].set_index("id") for model in models]
        first = tables[0]
        aligned = [table.reindex(first.index) for table in tables]
        return cls(
            models,
            first.index.to_numpy(),
            first["label"].to_numpy(),
            first["labelled"].to_numpy(dtype=float),
            np.stack([table["correct"].to_numpy(dtype=float) for table in aligned], axis=1),
            np.stack([table["nll"].to_numpy(dtype=float) for table in aligned], axis=1),
            first["group"].to_numpy(),
        )

    def take(self, models: Sequence[str]) -> PredictionMatrix:
        """Return the columns of some of the models, in the given order."""
        columns = [self.models.index(model) for model in models]
        return PredictionMatrix(
            tuple(models),
            self.ids,
            self.labels,
            self.labelled,
            self.correct[:, columns],
            self.nll[:, columns],
            self.groups,
        )

    def accuracy(self) -> np.ndarray:
        """Return the share of correct samples or pixels of each model, ``(K,)``."""
        share: np.ndarray = self.correct.sum(axis=0) / self.labelled.sum()
        return share
