"""The bootstrap: against one draw at a time, and its pairing of columns."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from mst_distill.evaluate.bootstrap import Bootstrap, sampling_units


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


def test_the_interval_of_groups_is_that_of_all_their_resamples() -> None:
    """The distribution over all 5^5 ordered draws of five groups, weighted by labelled samples."""
    rng = np.random.default_rng(4)
    groups = np.repeat(list("abcde"), [5, 2, 7, 1, 3])[rng.permutation(18)]
    weight = rng.integers(0, 2, 18).astype(float)
    weight[[list(groups).index(name) for name in "abcde"]] = 1
    values = rng.random(18) * weight
    rows = {name: np.flatnonzero(groups == name) for name in "abcde"}
    every = []
    for drawn in product("abcde", repeat=5):
        of = np.concatenate([rows[name] for name in drawn])
        every.append(values[of].sum() / weight[of].sum())
    found = Bootstrap(40000, 0.9, 0).mean(values, weight, groups)
    assert found["value"] == pytest.approx(values.sum() / weight.sum())
    ends = np.quantile(every, [0.05, 0.95])
    assert [found["low"], found["high"]] == pytest.approx(ends, abs=0.01)


def test_too_few_groups_have_no_interval() -> None:
    values, groups = np.random.default_rng(6).random(40), np.repeat(list("abcd"), 10)
    found = Bootstrap(100, 0.95, 0).mean(values, np.ones(40), groups)
    assert found["value"] == pytest.approx(values.mean())
    assert np.isnan([found["low"], found["high"]]).all()


def test_groups_of_one_sample_give_the_draws_of_samples():
    values, weight = np.random.default_rng(5).random((30, 2)), np.ones(30)
    plain = Bootstrap(100, 0.95, 0).means(values, weight)
    grouped = Bootstrap(100, 0.95, 0).means(values, weight, np.array([f"s{i}" for i in range(30)]))
    np.testing.assert_array_equal(plain, grouped)


def test_samples_of_equal_groups_have_a_wider_interval():
    """Ten samples of a group are all right or all wrong: they say as little as one."""
    right = np.repeat(np.arange(20) % 2, 10).astype(float)
    groups = np.repeat(np.arange(20), 10)
    single = Bootstrap(2000, 0.95, 0).mean(right, np.ones(200))
    found = Bootstrap(2000, 0.95, 0).mean(right, np.ones(200), groups)
    one_each = Bootstrap(2000, 0.95, 0).mean(right[::10], np.ones(20))
    assert found == one_each
    widths = [of["high"] - of["low"] for of in (found, single)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(10), rel=0.15)


def test_a_group_is_a_unit_only_if_splits_keep_groups_apart() -> None:
    table = pd.DataFrame({"id": list("abcdefghijkl"), "group": np.arange(12) // 2})
    split = ["train", "train", *["test"] * 10]
    assert sampling_units(table.assign(split=split)).tolist() == list("001122334455")
    mixed = ["train", *["test"] * 11]
    assert sampling_units(table.assign(split=mixed)).tolist() == list("abcdefghijkl")
    few = [*["train"] * 4, *["test"] * 8]
    assert sampling_units(table.assign(split=few)).tolist() == list("abcdefghijkl")


@pytest.mark.parametrize("grouped", [False, True])
def test_a_metric_that_is_a_mean_has_the_resamples_of_means(grouped: bool) -> None:
    rng = np.random.default_rng(3)
    values, weight = rng.random(40), rng.integers(1, 9, 40).astype(float)
    groups = np.repeat([f"g{number}" for number in range(8)], 5) if grouped else np.arange(40)
    bootstrap = Bootstrap(500, 0.95, 4)

    def ratio(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
        sums, counts = (weights @ terms).T
        return sums / counts

    found = bootstrap.values(ratio, np.column_stack([values, weight]), groups)
    expected = bootstrap.means(values[:, None], weight, groups)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_metric_of_few_groups_has_no_resamples() -> None:
    groups = np.repeat(["a", "b"], 10)
    found = Bootstrap(50, 0.95, 4).values(
        lambda _, weights: weights[:, 0], np.ones((20, 1)), groups
    )
    assert np.isnan(found).all()
    assert len(found) == 50


def test_the_memory_of_a_metric_of_few_groups_is_bounded(monkeypatch):
    """The samples count, and not the groups, which are far fewer."""
    terms, groups = np.arange(60.0)[:, None], np.repeat(np.arange(6), 10)
    sizes = []

    def metric(terms, weights):
        sizes.append(weights.size)
        return (weights @ terms)[:, 0] / weights.sum(axis=1)

    at_once = Bootstrap(50, 0.95, 0).values(metric, terms, groups)
    assert sizes == [50 * 60]
    monkeypatch.setattr("mst_distill.evaluate.bootstrap.BLOCK", 300)
    in_blocks = Bootstrap(50, 0.95, 0).values(metric, terms, groups)
    assert max(sizes[1:]) == 300
    assert in_blocks == pytest.approx(at_once, rel=1e-12)
