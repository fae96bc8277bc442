"""Images with most of their energy taken away, so that one modality alone is not enough."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from mst_distill.media.unit_scale import scale_to_unit


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

    Raises:
        ValueError: `kept_energy` is no such share.
    """
    if not 0 < kept_energy <= 1:
        raise ValueError(f"kept_energy is {kept_energy}; it must be above 0 and at most 1")
    components = PCA(svd_solver="covariance_eigh").fit(fit)
    energy = np.cumsum(components.explained_variance_ratio_)
    axes = components.components_[: np.abs(energy - kept_energy).argmin() + 1]
    projected = (images - components.mean_) @ axes.T @ axes + components.mean_
    return scale_to_unit(projected)
