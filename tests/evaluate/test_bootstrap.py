"""The bootstrap: against one draw at a time, and its pairing of columns."""

from __future__ import annotations

import numpy as np
import pytest

from mst_distill.evaluate.bootstrap import Bootstrap


def test_the_distribution_equals_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    values, weight = rng.integers(0, 50, (60, 2)).astype(float), rng.integers(50, 90, 60)
    found = Bootstrap(4000, 0.95, 1).means(values, weight)
    assert found.shape == (4000, 2)
    plain = []
    for _ in range(4000):
        rows = rng.integers(60, size=60)
        plain.append(values[rows].sum(axis=0) / weight[rows].sum())
    for tail in (0.025, 0.5, 0.975):
        np.testing.assert_allclose(
            np.quantile(found, tail, axis=0), np.quantile(plain, tail, axis=0), atol=0.005
        )


def test_columns_share_the_resamples():
    values = np.random.default_rng(1).random((30, 1))
    draws = Bootstrap(50, 0.95, 0).means(np.hstack([values, values + 1]), np.ones(30))
    np.testing.assert_allclose(draws[:, 1] - draws[:, 0], 1)


def test_many_samples_are_drawn_in_blocks(monkeypatch):
    values = np.random.default_rng(2).random((10, 1))
    whole = Bootstrap(7, 0.95, 5).means(values, np.ones(10))
    monkeypatch.setattr("mst_distill.evaluate.bootstrap.BLOCK", 30)
    blocks = Bootstrap(7, 0.95, 5).means(values, np.ones(10))
    np.testing.assert_allclose(blocks, whole)


def test_the_same_values_and_seed_give_the_same_interval():
    gain, labelled = np.random.default_rng(3).normal(size=40), np.ones(40)
    bootstrap = Bootstrap(100, 0.95, 0)
    assert bootstrap.mean(gain, labelled) == bootstrap.mean(gain, labelled)
    assert bootstrap.mean(gain, labelled) != Bootstrap(100, 0.95, 1).mean(gain, labelled)


def test_an_interval_by_hand():
    found = Bootstrap(101, 0.9, 0).interval(0.4, np.arange(101) / 100)
    assert found == pytest.approx({"value": 0.4, "low": 0.05, "high": 0.95})


def test_draws_without_labelled_samples_are_ignored():
    draws = np.array([np.nan, 0.0, 1.0])
    assert Bootstrap(3, 0.95, 0).interval(0.5, draws)["high"] == pytest.approx(0.975)
