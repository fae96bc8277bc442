"""How several models fared on the same held-out samples, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Outcomes:
    """A table of predictions with a column a model; n samples, K models.

    Attributes:
        models: Their names, in the order of the columns.
        ids: ``(n,)``.
        labels: ``(n,)`` class indices, -1 where labels are dense.
        judged: ``(n,)``, pixels with a target; 1 for one label a sample.
        correct: ``(n, K)``, of those the right ones; 0 or 1 for one label a sample.
        nll: ``(n, K)``, nats, the mean over the judged pixels.
    """

    models: tuple[str, ...]
    ids: np.ndarray
    labels: np.ndarray
    judged: np.ndarray
    correct: np.ndarray
    nll: np.ndarray

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> Outcomes:
        """From a row a sample and model, as `judge` writes them."""
        models = tuple(dict.fromkeys(predictions["model"]))
        parts = [predictions[predictions["model"] == model].set_index("id") for model in models]
        first = parts[0]
        aligned = [part.reindex(first.index) for part in parts]
        return cls(
            models,
            first.index.to_numpy(),
            first["label"].to_numpy(),
            first["judged"].to_numpy(dtype=float),
            np.stack([part["correct"].to_numpy(dtype=float) for part in aligned], axis=1),
            np.stack([part["nll"].to_numpy(dtype=float) for part in aligned], axis=1),
        )

    def take(self, models: Sequence[str]) -> Outcomes:
        """The same of some of the models, in that order."""
        columns = [self.models.index(model) for model in models]
        return Outcomes(
            tuple(models),
            self.ids,
            self.labels,
            self.judged,
            self.correct[:, columns],
            self.nll[:, columns],
        )

    def accuracy(self) -> np.ndarray:
        """``(K,)``, the share of judged samples or pixels that each model has right."""
        share: np.ndarray = self.correct.sum(axis=0) / self.judged.sum()
        return share
