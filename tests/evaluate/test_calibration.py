"""Temperatures against values worked out by hand, and risk-coverage curves with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mst_distill.evaluate import calibration
from mst_distill.evaluate.calibration import (
    LARGEST,
    accuracy_at_coverage,
    draw_positions,
    fit_temperature,
    risk_coverage,
    threshold_for_accuracy,
)


def two_classes(margin: float, correct: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (margin, 0) of all samples, `correct` of which have the label 0."""
    return np.tile([margin, 0.0], (count, 1)), np.arange(count) >= correct


def noisy(seed: int = 0, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of 5 classes and labels on which they have some information."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(5, size=count)
    return rng.normal(size=(count, 5)) + 1.5 * np.eye(5)[labels], labels


def nll(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    probability = powers / powers.sum(axis=1, keepdims=True)
    return float(-np.log(probability[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize(
    ("margin", "correct", "expected"),
    [
        # All samples have the confidence s(margin / T), s the logistic function. The likelihood is
        # largest if it is the accuracy: T = margin / log(correct / wrong).
        (2.0, 60, 2 / math.log(60 / 40)),  # confidence 88 %, accuracy 60 %: overconfident
        (0.5, 90, 0.5 / math.log(90 / 10)),  # confidence 62 %, accuracy 90 %: underconfident
        (math.log(3), 75, 1.0),  # calibrated
    ],
)
def test_two_classes_by_hand(margin: float, correct: int, expected: float) -> None:
    logits, labels = two_classes(margin, correct, 100)
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_the_temperature_is_the_best_of_a_fine_grid() -> None:
    logits, labels = noisy()
    temperature = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(math.log(0.1), math.log(10), 2001))
    best = grid[np.argmin([nll(logits, labels, each) for each in grid])]
    assert temperature == pytest.approx(best, rel=0.0025)
    assert nll(logits, labels, temperature) <= nll(logits, labels, best)


@pytest.mark.parametrize("factor", [0.1, 3.0, 25.0])
def test_the_temperature_of_logits_times_k_is_k_times_theirs(factor: float) -> None:
    logits, labels = noisy()
    expected = factor * fit_temperature(logits, labels)
    assert fit_temperature(factor * logits, labels) == pytest.approx(expected, rel=1e-6)


def test_an_offset_of_all_logits_of_a_sample_changes_nothing() -> None:
    logits, labels = noisy()
    shifted = logits + np.random.default_rng(1).normal(size=(len(logits), 1))
    expected = fit_temperature(logits, labels)
    assert fit_temperature(shifted, labels) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_scaling_changes_no_prediction_and_does_not_lower_the_likelihood(seed: int) -> None:
    logits, labels = noisy(seed)
    temperature = fit_temperature(logits, labels)
    assert temperature != pytest.approx(1, abs=1e-3)
    probability = torch.from_numpy(logits / temperature).softmax(dim=1)
    assert probability.argmax(dim=1).tolist() == logits.argmax(axis=1).tolist()
    assert nll(logits, labels, temperature) < nll(logits, labels)


def test_tensors_of_any_precision_and_dense_labels_are_the_same_samples() -> None:
    logits, labels = noisy(count=2 * 6 * 4)
    logits = logits.astype(np.float32)
    expected = fit_temperature(logits.astype(np.float64), labels)
    assert fit_temperature(logits, labels) == expected
    dense = np.moveaxis(logits.reshape(2, 6, 4, 5), -1, 1)
    assert fit_temperature(dense, labels.reshape(2, 6, 4)) == expected
    assert fit_temperature(torch.from_numpy(dense), torch.from_numpy(labels).view(2, 6, 4)) == (
        expected
    )


def test_ignored_labels_do_not_count() -> None:
    logits, labels = noisy()
    wrong = np.concatenate([logits, -50 * logits])
    for ignored in (255, 4):  # the ignored label may be a class
        kept = labels != ignored
        expected = fit_temperature(logits[kept], labels[kept])
        padded = np.concatenate([labels, np.full(len(labels), ignored)])
        assert fit_temperature(wrong, padded, ignored) == expected


@pytest.mark.parametrize("margin", [0.1, 3.0, 1e6])
def test_without_an_error_the_logits_stay_as_they_are(margin: float) -> None:
    """The likelihood would grow with every sharpening."""
    labels = np.arange(12) % 3
    logits = margin * np.arange(1, 13)[:, None] * np.eye(3)[labels]
    assert fit_temperature(logits, labels) == 1.0


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.empty((0, 3)), np.empty(0, dtype=int)),
        (np.ones((4, 3)), np.arange(4) % 3),  # they say nothing at any temperature
        (np.ones((2, 3, 2, 2)) * np.arange(3)[:, None, None], np.full((2, 2, 2), 7)),
    ],
    ids=["no samples", "equal logits", "ignored labels only"],
)
def test_what_says_nothing_leaves_the_logits_as_they_are(
    logits: np.ndarray, labels: np.ndarray
) -> None:
    assert fit_temperature(logits, labels, ignored=7) == 1.0


def test_logits_that_are_worse_than_chance_get_the_largest_temperature() -> None:
    logits, labels = noisy()
    assert fit_temperature(-logits, labels) == pytest.approx(LARGEST, rel=1e-6)


def test_a_draw_is_fixed_ascending_and_without_repetition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LARGEST_DRAW", 50)
    assert draw_positions(50, 0).tolist() == list(range(50))
    drawn = draw_positions(2000, 3)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert len(drawn) == 50
    assert drawn.min() < 500
    assert 1500 < drawn.max() < 2000
    assert (drawn == draw_positions(2000, 3)).all()
    assert (drawn != draw_positions(2000, 4)).any()


CONFIDENCE = np.array([0.5, 0.9, 0.8, 0.9, 0.5])
CORRECT = np.array([1, 1, 1, 0, 0])


def test_a_curve_with_ties_by_hand() -> None:
    curve = risk_coverage(CONFIDENCE, CORRECT)
    assert curve.to_dict("list") == {
        "coverage": [2 / 5, 3 / 5, 1.0],
        "accuracy": [1 / 2, 2 / 3, 3 / 5],
        "confidence": [0.9, 0.8, 0.5],
    }
    at = {0.0: 1 / 2, 0.4: 1 / 2, 0.41: 2 / 3, 0.6: 2 / 3, 0.8: 3 / 5, 1.0: 3 / 5}
    assert {coverage: accuracy_at_coverage(curve, coverage) for coverage in at} == at


def test_a_dense_curve_counts_pixels_and_leaves_out_pictures_without_any() -> None:
    curve = risk_coverage(
        np.array([0.7, 0.0, 0.9, 0.7]), np.array([3, 0, 9, 50]), np.array([10, 0, 10, 80])
    )
    assert curve.to_dict("list") == {
        "coverage": [10 / 100, 1.0],
        "accuracy": [9 / 10, 62 / 100],
        "confidence": [0.9, 0.7],
    }


@pytest.mark.parametrize(
    ("wanted", "expected"),
    # At 0.9 the accuracy is 1/2, from 0.8 on 2/3, and from 0.5 on 3/5.
    [(0.0, 0.5), (0.6, 0.5), (0.61, 0.8), (2 / 3, 0.8), (0.67, None), (1.0, None)],
)
def test_the_threshold_is_the_smallest_that_reaches_the_accuracy(
    wanted: float, expected: float | None
) -> None:
    assert threshold_for_accuracy(CONFIDENCE, CORRECT, wanted) == expected


def test_without_samples_there_is_neither_curve_nor_threshold() -> None:
    curve = risk_coverage(np.empty(0), np.empty(0))
    assert len(curve) == 0
    assert math.isnan(accuracy_at_coverage(curve, 0.8))
    assert threshold_for_accuracy(np.empty(0), np.empty(0), 0.0) is None


@pytest.mark.parametrize("wanted", [-0.1, 1.1, 90, math.nan])
def test_a_wanted_accuracy_outside_of_0_and_1_is_an_error(wanted: float) -> None:
    with pytest.raises(ValueError, match=f"{wanted}; it must lie between 0 and 1"):
        threshold_for_accuracy(CONFIDENCE, CORRECT, wanted)
