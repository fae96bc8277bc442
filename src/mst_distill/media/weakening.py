"""Images with most of their energy taken away, so that one modality alone is not enough."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA


def weaken(images: np.ndarray, fit: np.ndarray, kept_energy: float) -> np.ndarray:
    """Project images on their leading principal components, then scale each to [0, 1].

    AV-MNIST weakens MNIST so (Vielzeuf et al., "CentralNet", ECCV workshops 2018): 75 % of the
    energy is removed.

    Args:
        images: ``(N, pixels)``.
        fit: ``(n, pixels)``, the images whose components are used.
        kept_energy: Share of the variance of `fit` to keep, in (0, 1]; the number of components
            that comes nearest is taken.

    Returns:
        ``(N, pixels)`` float32 in [0, 1].
    """
    components = PCA(svd_solver="covariance_eigh").fit(fit)
    energy = np.cumsum(components.explained_variance_ratio_)
    axes = components.components_[: np.abs(energy - kept_energy).argmin() + 1]
    projected = (images - components.mean_) @ axes.T @ axes + components.mean_
    return scale_to_unit(projected)


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
