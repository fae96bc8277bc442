"""Shares, mutual information and gain of a choice, against scikit-learn, scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy as scipy_entropy
from sklearn.metrics import mutual_info_score

from mst_distill.diagnose.routing_quality import (
    PERMUTATIONS,
    against_fixed,
    entropy,
    information,
    mutual_information,
    shares,
)
from mst_distill.evaluate.bootstrap import Bootstrap

RNG = np.random.default_rng(0)


def one_hot(choice, experts):
    return np.eye(experts)[np.asarray(choice)]


def test_entropy_is_in_bits():
    probability = np.array([0.5, 0.25, 0.25, 0])
    assert entropy(probability) == pytest.approx(scipy_entropy(probability, base=2)) == 1.5
    assert entropy(np.array([1.0])) == 0


@pytest.mark.parametrize("symbols", [(2, 2), (4, 16), (1, 5)])
def test_mutual_information_equals_scikit_learn_s(symbols):
    one, other = (RNG.integers(count, size=300) for count in symbols)
    other = np.where(RNG.random(300) < 0.5, one, other)
    expected = mutual_info_score(one, other) / np.log(2)
    assert mutual_information(one, other) == pytest.approx(expected, abs=1e-9)


def test_choosing_the_correct_specialist_has_all_the_information():
    choice = RNG.integers(3, size=200)
    weights = one_hot(choice, 3)
    found = information(weights, weights, np.random.default_rng(1))
    assert found["share"] == pytest.approx(1)
    assert found["choice_bits"] == pytest.approx(scipy_entropy(np.bincount(choice), base=2))
    assert found["p_value"] == pytest.approx(1 / (1 + PERMUTATIONS))
    expected = [mutual_info_score(choice == e, weights[:, e]) / np.log(2) for e in range(3)]
    assert found["bits_each"] == pytest.approx(expected)


def test_a_random_choice_has_as_much_information_as_chance():
    correct = RNG.integers(2, size=(300, 4))
    found = information(one_hot(RNG.integers(4, size=300), 4), correct, np.random.default_rng(1))
    assert found["bits"] > 0.05  # the bias of counts
    assert found["bits"] == pytest.approx(found["bits_by_chance"], rel=0.4)
    assert found["p_value"] > 0.02
    patterns = correct @ [8, 4, 2, 1]
    choice = np.random.default_rng(0).integers(4, size=300)
    again = information(one_hot(choice, 4), correct, np.random.default_rng(1))
    assert again["bits"] == pytest.approx(mutual_info_score(choice, patterns) / np.log(2))


def test_a_constant_choice_has_no_information():
    found = information(
        one_hot([1] * 20, 2), RNG.integers(2, size=(20, 2)), np.random.default_rng(1)
    )
    assert (found["choice_bits"], found["bits"], found["share"]) == (0, 0, 0)
    assert found["p_value"] == 1


def test_shares_by_class():
    weights = np.array([[1, 0], [0, 1], [0, 1], [0.5, 0.5]])
    found = shares(weights, np.array([0, 0, 2, 2]), 3)
    np.testing.assert_allclose(found, [[0.5, 0.5], [np.nan, np.nan], [0.25, 0.75]])


def gains(routed, correct, labelled=None, resamples=200):
    routed, correct = (np.asarray(values, dtype=float) for values in (routed, correct))
    labelled = np.ones(len(correct)) if labelled is None else np.asarray(labelled, dtype=float)
    return against_fixed(routed, correct, labelled, Bootstrap(resamples, 0.95, 0))


def test_routed_against_the_best_fixed_by_hand():
    correct = [[1, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
    found = gains([1, 0, 1, 1, 0], correct)
    assert found["best_fixed"] == 0
    assert found["better"] == pytest.approx(1 / 5)  # the fourth
    assert found["worse"] == pytest.approx(1 / 5)  # the second
    assert found["difference"]["value"] == pytest.approx(0)
    assert found["difference"]["low"] < 0 < found["difference"]["high"]


def test_routing_to_the_best_specialist_has_no_gain():
    correct = RNG.integers(2, size=(50, 3))
    found = gains(correct[:, correct.sum(axis=0).argmax()], correct)
    assert (found["better"], found["worse"]) == (0, 0)
    assert found["difference"]["value"] == 0
    assert np.isnan([found["difference"][end] for end in ("low", "high")]).all()  # no interval


def test_gains_are_weighted_by_pixels():
    found = gains([8, 50], [[3, 8], [90, 50]], labelled=[10, 100])
    assert found["best_fixed"] == 0
    assert found["difference"]["value"] == pytest.approx((8 - 3 + 50 - 90) / 110)
    assert (found["better"], found["worse"]) == (0.5, 0.5)
