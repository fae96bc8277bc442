"""Statistics of a modality's numbers, and warnings on unusual scales and constant samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mst_distill.artifacts.progress import progress

CHUNK_BYTES = 2**25
"""Size of the chunks in which a modality is processed."""

UNIT_SCALE = (0.001, 10.0)
"""The range of root mean squares for which networks and learning rates are designed. Values scaled
to [0, 1] or to a standard deviation of 1, metres, and features of an encoder lie well within it,
long sparse features near its lower end. Pixels from 0 to 255 and decibels lie above it."""


def measure_values(name: str, array: np.ndarray, has: np.ndarray | None = None) -> dict[str, Any]:
    """Summarize the numbers of a modality over all samples of all splits, in bounded memory.

    Args:
        name: Name of the modality, for the progress bar.
        array: ``(N, *shape)``; it may be memory-mapped and larger than memory.
        has: ``(N,)``, whether a sample has this modality; the others are not counted. None if all
            samples have it.

    Returns:
        JSON values: ``shape`` (of a sample, with the type), ``minimum``, ``maximum``, ``mean``,
        ``standard_deviation``, and ``constant_samples``: the share, in [0, 1], of samples whose
        numbers are all equal, or None if a sample has only one number.
    """
    statistics = _sample_statistics(name, array)
    low, high, mean, variance = statistics if has is None else statistics[:, has]
    single = int(np.prod(array.shape[1:])) == 1
    return {
        "shape": f"{' x '.join(map(str, array.shape[1:]))} {array.dtype}",
        "minimum": float(low.min()),
        "maximum": float(high.max()),
        "mean": float(mean.mean()),
        # The law of total variance, for samples of equal size.
        "standard_deviation": float(np.sqrt(variance.mean() + mean.var())),
        "constant_samples": None if single else float((low == high).mean()),
    }


def value_warnings(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return warnings on modalities that are far from unit scale or have constant samples.

    Args:
        values: The result of `measure_values` for each modality.
    """
    return [
        warning
        for name, statistics in values.items()
        for warning in (*_scale_warnings(name, statistics), *_constant_warnings(name, statistics))
    ]


def _scale_warnings(name: str, statistics: Mapping[str, Any]) -> list[str]:
    # The root mean square, since E[x²] = E[x]² + Var[x].
    size = float(np.hypot(statistics["mean"], statistics["standard_deviation"]))
    if UNIT_SCALE[0] <= size <= UNIT_SCALE[1]:
        return []
    return [
        f"The modality {name!r} is far from unit scale: its numbers lie between "
        f"{statistics['minimum']:.4g} and {statistics['maximum']:.4g}, with the mean "
        f"{statistics['mean']:.4g} and the standard deviation "
        f"{statistics['standard_deviation']:.4g}. Training may diverge or make no progress. Scale "
        f"the modality in the `read` method of its source, for example to [0, 1], or to mean 0 and "
        f"standard deviation 1 over the training split."
    ]


def _constant_warnings(name: str, statistics: Mapping[str, Any]) -> list[str]:
    if not statistics["constant_samples"]:
        return []
    return [
        f"The modality {name!r} is constant in {statistics['constant_samples']:.2%} of the "
        f"samples: all numbers of such a sample are equal, as in silence, a blank picture or a "
        f"missing value. Check the raw files, and raise DamagedSampleError in the `read` method of "
        f"the source for samples without content."
    ]


def _sample_statistics(name: str, array: np.ndarray) -> np.ndarray:
    """Return minimum, maximum, mean and variance of every sample, ``(4, N)`` in float64."""
    statistics = np.empty((4, len(array)))
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in progress(range(0, len(array), step), f"values of {name}", "chunk"):
        chunk = np.asarray(array[start : start + step]).reshape(-1, array[:1].size)
        rows = slice(start, start + len(chunk))
        statistics[0, rows], statistics[1, rows] = chunk.min(axis=1), chunk.max(axis=1)
        # In float32 rounding errors could exceed a small variance around a large mean.
        statistics[2, rows] = chunk.mean(axis=1, dtype=np.float64)
        statistics[3, rows] = chunk.var(axis=1, dtype=np.float64)
    return statistics
