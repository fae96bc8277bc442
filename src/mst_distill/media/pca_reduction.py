"""Removal of most of the energy of images, so that one modality alone is not enough."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from mst_distill.media.minmax import scale_min_max


def reduce_by_pca(images: np.ndarray, fit: np.ndarray, kept_energy: float) -> np.ndarray:
    """Project images onto their leading principal components, then scale each to [0, 1].

    AV-MNIST weakens MNIST in this way (Vielzeuf et al., "CentralNet", ECCV workshops 2018): 75 %
    of the energy is removed.

    Args:
        images: ``(N, pixels)``.
        fit: ``(n, pixels)``, the images from which the components are computed.
        kept_energy: Share of the variance of `fit` to keep, in (0, 1]. The number of components
            is the one whose share is nearest to it.

    Returns:
        ``(N, pixels)`` float32 in [0, 1].

    Raises:
        ValueError: `kept_energy` is outside (0, 1].
    """
    if not 0 < kept_energy <= 1:
        raise ValueError(f"kept_energy is {kept_energy}; it must be above 0 and at most 1")
    pca = PCA(svd_solver="covariance_eigh").fit(fit)
    energy = np.cumsum(pca.explained_variance_ratio_)
    axes = pca.components_[: np.abs(energy - kept_energy).argmin() + 1]
    projected = (images - pca.mean_) @ axes.T @ axes + pca.mean_
    return scale_min_max(projected)
