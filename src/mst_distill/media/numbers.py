"""Columns of numbers, standardised."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mst_distill.media.readers import Reader, readable

log = logging.getLogger(__name__)


@dataclass
class StandardisedNumbers(Reader):
    """Scales each number to mean 0 and standard deviation 1 over the training samples.

    An empty number, NaN, becomes 0, the mean; a row without any number cannot be read. A column
    that never changes is 0.

    Attributes:
        names: The columns; the tensor is ``(len(names),)``.
        fitted: ``mean`` and ``per_deviation``, 1 / standard deviation or 0, ``(len(names),)``.
    """

    takes = "numbers"
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        self.names = self.columns = tuple(self.names)

    def fit(self, values: Iterable[Any]) -> None:
        """Compute mean and standard deviation of each column, without empty numbers.

        A column that is empty in all training samples is 0, with a warning.
        """
        known = np.stack(readable(values, self._numbers))
        for name in (self.names[column] for column in np.isnan(known).all(axis=0).nonzero()[0]):
            log.warning("The column %r has no number in any training sample and is 0", name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of empty columns
            mean, deviation = np.nan_to_num(np.nanmean(known, axis=0)), np.nanstd(known, axis=0)
            varies = np.nanmax(known, axis=0) > np.nanmin(known, axis=0)
        per_deviation = np.divide(1, deviation, out=np.zeros(len(self.names)), where=varies)
        self.fitted = {"mean": mean, "per_deviation": per_deviation}

    def read_one(self, value: Any) -> tuple[np.ndarray, dict[str, float]]:
        """Read one row as ``(len(names),)`` float32."""
        numbers = self._numbers(value)
        if np.isnan(numbers).all():
            raise ValueError(f"there is no number in {', '.join(self.names[:5])}")
        scaled = (numbers - self.fitted["mean"]) * self.fitted["per_deviation"]
        return np.where(np.isnan(numbers), 0, scaled).astype(np.float32), {}

    def _numbers(self, value: Any) -> np.ndarray:
        try:
            numbers = np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it is not a row of numbers ({error})") from error
        if numbers.shape != (len(self.names),):
            raise ValueError(f"it has {numbers.size} numbers; {len(self.names)} are required")
        if np.isinf(numbers).any():
            name = self.names[int(np.isinf(numbers).argmax())]
            raise ValueError(f"the number in the column {name!r} is infinite")
        return numbers
