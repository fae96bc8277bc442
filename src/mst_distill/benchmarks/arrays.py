"""Samples from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mst_distill.benchmarks.source import DENSE, SampleSource


class Arrays(SampleSource):
    """Samples from arrays in memory, for use from Python; see `mst_distill.samples_of`.

    Args:
        modalities: Name to array ``(N, *shape)``.
        labels: ``(N,)`` or, for dense labels, ``(N, H, W)``; integers.
        classes: Class names, in the order of the labels.
        index: The columns ``id``, ``group`` and ``split``, and any others, one row for each sample.
        ignored_label: The label that is not a target, or None.
    """

    def __init__(
        self,
        modalities: Mapping[str, np.ndarray],
        labels: np.ndarray,
        classes: Sequence[str],
        index: pd.DataFrame,
        ignored_label: int | None = None,
    ) -> None:
        self.classes = tuple(classes)
        self.files = ()
        self.ignored_label = ignored_label  # type: ignore[misc]  # of this source alone
        self.modalities = tuple(modalities)
        self._arrays = dict(modalities)
        dense = labels.ndim > 1
        if dense:
            self._arrays["label"] = labels
        self.index = index.assign(label=DENSE if dense else labels, row=np.arange(len(index)))

    def read(self, part: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the rows of the arrays."""
        rows = part["row"].to_numpy()
        return {name: array[rows] for name, array in self._arrays.items()}
