"""The percentile bootstrap over whole samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 2**22
"""Numbers drawn at a time."""

NO_WIDTH = 1e-9
"""An interval that is not wider than this differs from a point by rounding alone."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn (Efron and Tibshirani, 1993, chapter 13).

    Whole samples are drawn, so that the pixels of an image stay together. Every call draws the same
    ones, so that one figure has one interval wherever it is told.

    Attributes:
        resamples: R, how often.
        confidence: Of the intervals, in (0, 1).
        seed: Of the draws.
    """

    resamples: int
    confidence: float
    seed: int

    def means(self, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Sums of `values` over sums of `weight` in samples drawn with replacement.

        Every column sees the same draws, so that differences of columns are paired.

        Args:
            values: ``(n, K)``, sums over the judged pixels of a sample.
            weight: ``(n,)``, the number of those; 1 for one label a sample.

        Returns:
            ``(R, K)``; not a number where a draw holds nothing that is judged.
        """
        rng, count = np.random.default_rng(self.seed), len(values)
        even = np.full(count, 1 / count)
        block = max(1, BLOCK // count)
        means = []
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            drawn = rng.multinomial(count, even, size=size).astype(float)
            with np.errstate(invalid="ignore"):
                means.append(drawn @ values / (drawn @ weight)[:, None])
        return np.concatenate(means)

    def interval(self, value: float, draws: np.ndarray) -> dict[str, float]:
        """A figure and the percentile interval of the same in every draw, ``(R,)``.

        Returns:
            ``value``, ``low`` and ``high``. Where every sample says the same, or there is only one,
            the draws do not vary: this is no certainty, so there is no interval and both ends are
            not a number.
        """
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(draws, [tail, 1 - tail])
        if high - low <= NO_WIDTH:
            low = high = np.nan
        return {"value": float(value), "low": float(low), "high": float(high)}

    def mean(self, values: np.ndarray, weight: np.ndarray) -> dict[str, float]:
        """The mean of ``(n,)`` values, each a sum over its sample's `weight`, with its interval."""
        draws = self.means(values[:, None], weight)[:, 0]
        return self.interval(values.sum() / weight.sum(), draws)
