"""Reduction of images by PCA, compared with projections onto known axes."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.media.pca_reduction import ReducedPixels

ENERGIES = np.array([0.5, 0.25, 0.15, 0.1])
"""Shares of the variance along four orthogonal directions."""


def images(count: int = 50, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images of six pixels with exactly `ENERGIES`, and the directions as rows."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(count, 4))
    scores, _ = np.linalg.qr(scores - scores.mean(axis=0))
    axes, _ = np.linalg.qr(rng.normal(size=(6, 4)))
    return 3 + 10 * (scores * np.sqrt(ENERGIES)) @ axes.T, axes.T


def reduced(values: np.ndarray, fit: np.ndarray, kept_energy: float) -> np.ndarray:
    reader = ReducedPixels(1, values.shape[1], kept_energy)
    reader.fit(fit)
    return reader.read(list(values))[:, 0, 0]


def scaled(values: np.ndarray) -> np.ndarray:
    return np.array([(row - row.min()) / (row.max() - row.min()) for row in values])


@pytest.mark.parametrize(
    ("kept_energy", "components"),
    [(0.1, 1), (0.5, 1), (0.6, 1), (0.65, 2), (0.75, 2), (0.9, 3), (0.94, 3), (0.96, 4), (1.0, 4)],
)
def test_the_number_of_components_is_nearest_to_the_energy(
    kept_energy: float, components: int
) -> None:
    values, axes = images()
    kept = axes[:components]
    mean = values.mean(axis=0)
    expected = scaled((values - mean) @ kept.T @ kept + mean)
    np.testing.assert_allclose(reduced(values, values, kept_energy), expected, atol=1e-5)


def test_full_energy_does_not_change_the_images() -> None:
    values = np.random.default_rng(1).normal(size=(40, 9))
    np.testing.assert_allclose(reduced(values, values, 1.0), scaled(values), atol=1e-5)


def test_the_components_are_computed_only_from_the_images_of_the_fit() -> None:
    fit, axes = images()
    others = np.random.default_rng(2).normal(size=(5, 6))
    mean, kept = fit.mean(axis=0), axes[:2]
    expected = scaled((others - mean) @ kept.T @ kept + mean)
    np.testing.assert_allclose(reduced(others, fit, 0.75), expected, atol=1e-5)
    single = reduced(others[:1], fit, 0.75)
    np.testing.assert_allclose(single, expected[:1], atol=1e-5)


def test_reduced_images_lie_between_0_and_1() -> None:
    values, _ = images()
    read = reduced(values, values, 0.5)
    assert read.dtype == np.float32
    assert read.shape == values.shape
    assert (read.min(axis=1) == 0).all()
    assert (read.max(axis=1) == 1).all()


@pytest.mark.parametrize("kept_energy", [0, -0.5, 1.01, 25, float("nan")])
def test_an_energy_outside_0_to_1_is_an_error(kept_energy: float) -> None:
    with pytest.raises(ValueError, match=r"kept_energy is .*above 0 and at most 1"):
        ReducedPixels(1, 6, kept_energy)
