"""Min-max scaling of each sample to [0, 1]."""

from __future__ import annotations

import numpy as np


def scale_min_max(samples: np.ndarray) -> np.ndarray:
    """Scale each sample to [0, 1] by its own minimum and maximum; a constant sample becomes 0.

    Args:
        samples: ``(N, ...)``.

    Returns:
        An array of the same shape, float32.
    """
    axes = tuple(range(1, samples.ndim))
    low = samples.min(axis=axes, keepdims=True)
    span = samples.max(axis=axes, keepdims=True) - low
    return ((samples - low) / np.where(span > 0, span, 1)).astype(np.float32)
