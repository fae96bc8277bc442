"""The percentile bootstrap over whole samples, or over whole groups of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

BLOCK = 2**22
"""How many sample counts are drawn at a time, which bounds the memory."""

MIN_GROUPS = 5
"""With fewer groups, resamples of groups say nothing: the intervals of two groups exclude the truth
in half of all cases. If the whole test split has fewer, samples are drawn."""

MIN_WIDTH = 1e-9
"""An interval of at most this width differs from a point by rounding alone."""


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the percentile bootstrap (Efron and Tibshirani, 1993, chapter 13).

    Whole samples are drawn, so that the pixels of an image stay together. Samples of one group,
    such as the clips of an actor, are not independent: where splits are by group, groups are drawn
    (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8), and the
    interval states what other groups would give. Every call draws the same resamples, so that a
    metric has the same interval in every report.

    Attributes:
        resamples: R, the number of resamples.
        confidence: Confidence level of the intervals, in (0, 1).
        seed: Seed of the resamples.
    """

    resamples: int
    confidence: float
    seed: int

    def means(
        self, values: np.ndarray, weight: np.ndarray, groups: np.ndarray | None = None
    ) -> np.ndarray:
        """Return sum of `values` / sum of `weight` for each resample, drawn with replacement.

        All columns share the resamples, so that differences of columns are paired.

        Args:
            values: ``(n, K)``; for dense labels, sums over the labelled pixels of each sample.
            weight: ``(n,)``, the number of these pixels; 0 or 1 with one label for each sample.
            groups: ``(n,)``, the name of the group of each sample, see `sampling_units`; by default
                each sample is a group of its own.

        Returns:
            ``(R, K)``, NaN where a resample contains no labelled sample or pixel, and if several
            samples are of fewer than `MIN_GROUPS` groups.
        """
        if groups is not None:
            if len(set(groups)) < min(MIN_GROUPS, len(groups)):
                return np.full((self.resamples, values.shape[1]), np.nan)
            values, weight = _sums(values, groups), _sums(weight[:, None], groups)[:, 0]
        means = []
        for drawn in self._draws(len(values)):
            with np.errstate(invalid="ignore"):
                means.append(drawn @ values / (drawn @ weight)[:, None])
        return np.concatenate(means)

    def values(
        self,
        metric: Callable[[np.ndarray, np.ndarray], np.ndarray],
        terms: np.ndarray,
        groups: np.ndarray,
    ) -> np.ndarray:
        """Return a metric that is no mean over samples for each resample.

        Args:
            metric: Maps terms, ``(n, K)``, and how often each sample is drawn, ``(r, n)``, to
                values, ``(r,)``; see `Metric`.
            terms: ``(n, K)``.
            groups: As in `means`, whose resamples these are.

        Returns:
            ``(R,)``, NaN where the metric is not defined, and as in `means`.
        """
        if len(set(groups)) < min(MIN_GROUPS, len(groups)):
            return np.full(self.resamples, np.nan)
        codes, names = pd.factorize(groups)
        size = max(1, BLOCK // len(terms))  # there may be far fewer groups than samples
        return np.concatenate(
            [
                metric(terms, drawn[start : start + size, codes])
                for drawn in self._draws(len(names))
                for start in range(0, len(drawn), size)
            ]
        )

    def _draws(self, count: int) -> Iterator[np.ndarray]:
        """Yield how often each of `count` units is drawn, ``(r, count)``, R rows in all."""
        rng = np.random.default_rng(self.seed)
        uniform = np.full(count, 1 / count)
        block = max(1, BLOCK // count)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            yield rng.multinomial(count, uniform, size=size).astype(float)

    def interval(self, value: float, draws: np.ndarray) -> dict[str, float]:
        """Return a value with the percentile interval of its bootstrap draws.

        Args:
            value: The value on all samples.
            draws: ``(R,)``, the same value on each resample.

        Returns:
            ``value``, ``low`` and ``high``. If the draws do not vary, because all samples have the
            same value or there is only one, the uncertainty is unknown rather than 0. Then there is
            no interval, and both ends are NaN.
        """
        tail = (1 - self.confidence) / 2
        if np.isnan(draws).all():
            return {"value": float(value), "low": np.nan, "high": np.nan}
        low, high = np.nanquantile(draws, [tail, 1 - tail])
        if high - low <= MIN_WIDTH:
            low = high = np.nan
        return {"value": float(value), "low": float(low), "high": float(high)}

    def mean(
        self, values: np.ndarray, weight: np.ndarray, groups: np.ndarray | None = None
    ) -> dict[str, float]:
        """Return sum of `values` / sum of `weight`, ``(n,)`` each, with its interval."""
        draws = self.means(values[:, None], weight, groups)[:, 0]
        return self.interval(values.sum() / weight.sum(), draws)


def sampling_units(splits: pd.DataFrame) -> pd.Series:
    """Return what is drawn as a whole for each sample: its group, or the sample itself.

    Args:
        splits: ``id``, ``group`` and ``split``. If the samples of a group are in several splits, as
            under the protocol ``random``, splits do not keep groups apart, and every sample is a
            unit; so it is if the test split has fewer than `MIN_GROUPS`.
    """
    apart = len(splits[["group", "split"]].drop_duplicates()) == splits["group"].nunique()
    by_group = apart and splits.loc[splits["split"] == "test", "group"].nunique() >= MIN_GROUPS
    return splits["group" if by_group else "id"].astype(str)


def _sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Add up the rows of every group, ``(n, K)`` to ``(G, K)``, in the order of their first rows.

    If each row is a group of its own, these are the rows themselves.
    """
    codes, names = pd.factorize(groups)
    sums = np.zeros((len(names), values.shape[1]), dtype=float)
    np.add.at(sums, codes, values)
    return sums
