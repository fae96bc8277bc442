"""CKA against its feature and kernel formulas, histogram intersection by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from mst_distill.diagnose.similarity import cka_by_chance, intersection, linear_cka

RNG = np.random.default_rng(0)
ONE = RNG.normal(size=(40, 6)) + 3
OTHER = ONE[:, :3] ** 2 + RNG.normal(size=(40, 3))


def cka_of_features(one: np.ndarray, other: np.ndarray) -> float:
    """||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), Kornblith et al. 2019, on centred columns."""
    x, y = one - one.mean(axis=0), other - other.mean(axis=0)
    cross = np.linalg.norm(y.T @ x, "fro") ** 2
    return cross / (np.linalg.norm(x.T @ x, "fro") * np.linalg.norm(y.T @ y, "fro"))


def hsic(k: np.ndarray, other: np.ndarray) -> float:
    centre = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ centre @ other @ centre))


def test_cka_equals_the_formula_on_features():
    assert linear_cka(ONE, OTHER) == pytest.approx(cka_of_features(ONE, OTHER))
    assert linear_cka(OTHER, ONE) == pytest.approx(linear_cka(ONE, OTHER))


def test_cka_equals_the_formula_on_kernels():
    k, other = ONE @ ONE.T, OTHER @ OTHER.T
    expected = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert linear_cka(ONE, OTHER) == pytest.approx(expected)


def test_cka_is_invariant_to_rotation_scale_and_offset():
    transformed = 7 * ONE @ ortho_group.rvs(6, random_state=1) - 5
    assert linear_cka(ONE, transformed) == pytest.approx(1)
    assert linear_cka(transformed, OTHER) == pytest.approx(linear_cka(ONE, OTHER))


def test_cka_of_constant_features_is_0():
    assert linear_cka(np.ones((5, 2)), ONE[:5]) == 0


def test_chance_is_far_from_0_if_features_are_wider_than_the_number_of_samples():
    wide, other = RNG.normal(size=(2, 30, 3000))
    rng = np.random.default_rng(0)
    assert cka_by_chance(wide, other, rng) == pytest.approx(linear_cka(wide, other), abs=0.02)
    assert cka_by_chance(wide, other, rng) > 0.9
    narrow = RNG.normal(size=(500, 3))
    assert cka_by_chance(narrow, narrow, rng) < 0.05


def test_intersection_by_hand():
    one = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    other = np.array([[0.1, 0.6, 0.3], [0.0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(intersection(one, other), [0.6, 0.0, 1.0])


def test_intersection_sums_over_all_positions_of_a_map():
    maps = RNG.random((2, 7, 4, 5))
    maps /= maps.sum(axis=(2, 3), keepdims=True)
    by_hand = [sum(map(min, a.ravel(), b.ravel())) for a, b in zip(*maps, strict=True)]
    np.testing.assert_allclose(intersection(*maps), by_hand)
