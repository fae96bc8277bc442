"""The bootstrap over whole samples, for several figures at once."""

from __future__ import annotations

import numpy as np

BLOCK = 2**22
"""Numbers drawn at a time."""


def resampled_means(
    values: np.ndarray, weight: np.ndarray, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Sums of `values` over sums of `weight` in samples drawn with replacement.

    Every column sees the same draws, so that differences of columns are paired (Efron and
    Tibshirani, 1993, chapter 13).

    Args:
        values: ``(n, K)``, sums over the judged pixels of a sample.
        weight: ``(n,)``, the number of those; 1 for one label a sample.
        resamples: R, how often to draw.
        rng: Draws.

    Returns:
        ``(R, K)``; not a number where a draw holds nothing that is judged.
    """
    count = len(values)
    even = np.full(count, 1 / count)
    block = max(1, BLOCK // count)
    means = []
    for start in range(0, resamples, block):
        drawn = rng.multinomial(count, even, size=min(block, resamples - start)).astype(float)
        with np.errstate(invalid="ignore"):
            means.append(drawn @ values / (drawn @ weight)[:, None])
    return np.concatenate(means)


def spread(value: float, draws: np.ndarray, confidence: float) -> dict[str, float]:
    """A figure and the percentile interval of its draws.

    Args:
        value: The figure.
        draws: ``(R,)``, the same in every draw.
        confidence: Of the interval, in (0, 1).

    Returns:
        ``value``, ``low`` and ``high``.
    """
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}
