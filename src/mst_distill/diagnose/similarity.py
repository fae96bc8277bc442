"""How alike two maps, or two sets of features, are."""

from __future__ import annotations

import numpy as np

SHUFFLES = 20
"""Over how many shuffles of the samples the alignment by chance is averaged."""


def intersection(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Histogram intersection: the sum of the smaller of two shares, place by place.

    Swain and Ballard, "Color Indexing", IJCV 1991, eq. 1, of histograms that sum to 1.

    Args:
        one: ``(n, ...)``, at least 0 and of sum 1 for every sample.
        other: The same.

    Returns:
        ``(n,)`` in [0, 1]: 1 where both are the same, 0 where they have no place in common.
    """
    shared: np.ndarray = np.minimum(one, other).reshape(len(one), -1).sum(axis=1)
    return shared.clip(0, 1)


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear centred kernel alignment of two sets of features of the same samples.

    CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) on centred features, Kornblith et al.,
    "Similarity of Neural Network Representations Revisited", ICML 2019, section 3; here by its
    equal over samples, <K, L>_F / (||K||_F ||L||_F), which does not grow with the width.

    Args:
        one: ``(n, D)``.
        other: ``(n, E)``.

    Returns:
        In [0, 1]; the same for rotated or scaled features; 0 where one does not vary at all.
    """
    return _alignment(_gram(one), _gram(other))


def cka_by_chance(one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> float:
    """The mean `linear_cka` when samples are paired at random.

    It is far from 0 where features are wider than there are samples: what is not above it says
    nothing.
    """
    first, second = _gram(one), _gram(other)
    orders = (rng.permutation(len(second)) for _ in range(SHUFFLES))
    return float(np.mean([_alignment(first, second[np.ix_(order, order)]) for order in orders]))


def _gram(features: np.ndarray) -> np.ndarray:
    """The centred linear kernel, ``(n, n)``."""
    centred = features.astype(float) - features.mean(axis=0, dtype=float)
    return centred @ centred.T


def _alignment(one: np.ndarray, other: np.ndarray) -> float:
    size = np.linalg.norm(one) * np.linalg.norm(other)
    return float(np.clip((one * other).sum() / size, 0, 1)) if size > 0 else 0.0
