"""The numbers of a modality: range, mean, deviation, samples that are constant, and the scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mst_distill.artifacts.progress import progress

CHUNK_BYTES = 2**25
"""How much of a modality is looked at at a time."""

UNIT_SCALE = (0.001, 10.0)
"""Root mean squares for which nets and learning rates are made. What is scaled to [0, 1] or to
deviation 1, metres, and features of an encoder lie well within, long sparse ones near the lower
end; pixels from 0 to 255 and decibels lie above."""


def measure_values(name: str, array: np.ndarray) -> dict[str, Any]:
    """Sum up all numbers of a modality, of all samples of all splits, in bounded memory.

    Args:
        name: Of the modality, for the progress bar.
        array: ``(N, *shape)``, which may be a map of a file larger than memory.

    Returns:
        JSON values: ``shape`` (of a sample, with the type), ``minimum``, ``maximum``, ``mean``,
        ``standard_deviation``, and ``constant_samples``: the share of samples whose numbers are all
        equal, in [0, 1], or None where a sample has one number.
    """
    low, high, mean, variance = _of_samples(name, array)
    single = int(np.prod(array.shape[1:])) == 1
    return {
        "shape": f"{' x '.join(map(str, array.shape[1:]))} {array.dtype}",
        "minimum": float(low.min()),
        "maximum": float(high.max()),
        "mean": float(mean.mean()),
        # The law of total variance, for samples of one size.
        "standard_deviation": float(np.sqrt(variance.mean() + mean.var())),
        "constant_samples": None if single else float((low == high).mean()),
    }


def value_warnings(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Sentences on modalities that are far from unit scale, or that have constant samples.

    Args:
        values: Modality to its `measure_values`.
    """
    return [
        warning
        for name, of in values.items()
        for warning in (*_scale_warnings(name, of), *_constant_warnings(name, of))
    ]


def _scale_warnings(name: str, of: Mapping[str, Any]) -> list[str]:
    size = float(np.hypot(of["mean"], of["standard_deviation"]))
    if UNIT_SCALE[0] <= size <= UNIT_SCALE[1]:
        return []
    return [
        f"The modality {name!r} is far from unit scale: its numbers lie between "
        f"{of['minimum']:.4g} and {of['maximum']:.4g}, with the mean {of['mean']:.4g} and the "
        f"standard deviation {of['standard_deviation']:.4g}. Training may diverge or stand still: "
        f"scale it in the `read` of its source, for example to [0, 1], or to mean 0 and deviation "
        f"1 over the training split."
    ]


def _constant_warnings(name: str, of: Mapping[str, Any]) -> list[str]:
    if not of["constant_samples"]:
        return []
    return [
        f"The modality {name!r} is constant in {of['constant_samples']:.2%} of the samples: all "
        f"their numbers are equal, as in silence, a blank picture or a value that is missing. Look "
        f"at the raw files, and raise DamagedSampleError in the `read` of its source for samples "
        f"that hold nothing."
    ]


def _of_samples(name: str, array: np.ndarray) -> np.ndarray:
    """Minimum, maximum, mean and variance of every sample, ``(4, N)`` in float64."""
    found = np.empty((4, len(array)))
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in progress(range(0, len(array), step), f"values of {name}", "part"):
        part = np.asarray(array[start : start + step]).reshape(-1, array[:1].size)
        here = slice(start, start + len(part))
        found[0, here], found[1, here] = part.min(axis=1), part.max(axis=1)
        found[2, here] = part.mean(axis=1, dtype=np.float64)
        found[3, here] = part.var(axis=1, dtype=np.float64)
    return found
