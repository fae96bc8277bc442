"""Samples scaled to [0, 1], each by itself."""

from __future__ import annotations

import numpy as np


def scale_to_unit(samples: np.ndarray) -> np.ndarray:
    """Scale every sample to [0, 1] by its own minimum and maximum; a constant one becomes 0.

    Args:
        samples: ``(N, ...)``.

    Returns:
        The same shape, float32.
    """
    axes = tuple(range(1, samples.ndim))
    low = samples.min(axis=axes, keepdims=True)
    span = samples.max(axis=axes, keepdims=True) - low
    return ((samples - low) / np.where(span > 0, span, 1)).astype(np.float32)
