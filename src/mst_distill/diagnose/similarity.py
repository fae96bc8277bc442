"""Similarity of two saliency maps, and of two sets of features."""

from __future__ import annotations

import numpy as np

SHUFFLES = 20
"""Number of random pairings of the samples over which `cka_by_chance` averages."""


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the histogram intersection: the sum over positions of the smaller of two shares.

    Swain and Ballard, "Color Indexing", IJCV 1991, eq. 1, for histograms that sum to 1.

    Args:
        one: ``(n, ...)``, at least 0, with a sum of 1 for every sample.
        other: The same shape, range and sum.

    Returns:
        ``(n,)`` in [0, 1]: 1 where both are equal, 0 where they have no position in common.
    """
    shared: np.ndarray = np.minimum(one, other).reshape(len(one), -1).sum(axis=1)
    return shared.clip(0, 1)


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Return the linear centred kernel alignment of two sets of features of the same samples.

    CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) on centred features, Kornblith et al.,
    "Similarity of Neural Network Representations Revisited", ICML 2019, section 3. It is computed
    in the equivalent form <K, L>_F / (||K||_F ||L||_F) over samples, whose size does not depend on
    the feature width.

    Args:
        one: ``(n, D)``.
        other: ``(n, E)``.

    Returns:
        A number in [0, 1] that does not depend on rotation or scale of the features; 0 if one of
        the sets does not vary.
    """
    return _alignment(_gram(one), _gram(other))


def cka_by_chance(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> float:
    """Return the mean `linear_cka` over random pairings of the samples.

    It is far from 0 if the features are wider than the number of samples. A CKA that is not above
    it is no evidence of similarity.
    """
    first, second = _gram(one), _gram(other)
    orders = (rng.permutation(len(second)) for _ in range(SHUFFLES))
    return float(np.mean([_alignment(first, second[np.ix_(order, order)]) for order in orders]))


def _gram(features: np.ndarray) -> np.ndarray:
    """Return the centred linear kernel, ``(n, n)``."""
    centred = features.astype(float) - features.mean(axis=0, dtype=float)
    return centred @ centred.T


def _alignment(one: np.ndarray, other: np.ndarray) -> float:
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(np.clip((one * other).sum() / size, 0, 1)) if size > 0 else 0.0
