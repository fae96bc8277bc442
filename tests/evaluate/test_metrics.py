"""Metric counts and metrics, against scikit-learn on single labels and against hand counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from mst_distill.evaluate.accumulate import MetricAccumulator
from mst_distill.evaluate.metrics import calibration_error, commonest_class, measure

CPU = torch.device("cpu")
NAMES = ("zero", "one", "two", "three")


def counts_of(
    logits: np.ndarray,
    label: np.ndarray,
    bins: int = 15,
    ignored: int | None = None,
    batch_size: int = 60,
) -> dict[str, Any]:
    accumulator = MetricAccumulator(logits.shape[1], bins, ignored, CPU)
    for start in range(0, len(label), batch_size):
        batch = slice(start, start + batch_size)
        accumulator.update(torch.from_numpy(logits[batch]), torch.from_numpy(label[batch]))
    return accumulator.summary()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute it over axis 1, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def binned_error(probability: np.ndarray, label: np.ndarray, bins: int) -> float:
    """Compute the expected calibration error of ``(n, C)`` probabilities in a plain loop."""
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == label
    total = 0.0
    for index in range(bins):
        last = index == bins - 1
        inside = (confidence >= index / bins) & ((confidence < (index + 1) / bins) | last)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def logits_for(rows: list[list[float]]) -> np.ndarray:
    """Return logits whose softmax is `rows`."""
    return np.log(np.array(rows, dtype=np.float64))


@pytest.fixture(scope="module")
def guesses() -> tuple[np.ndarray, np.ndarray]:
    """Return logits of 250 samples, biased towards the true one of 4 classes; the last is rare."""
    rng = np.random.default_rng(0)
    label = rng.choice(4, size=250, p=[0.4, 0.3, 0.25, 0.05])
    logits = rng.normal(size=(250, 4)).astype(np.float32)
    logits[np.arange(250), label] += 1
    return logits, label


def test_metrics_equal_those_of_scikit_learn_on_the_labels(
    guesses: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = guesses
    guess = logits.argmax(axis=1)
    values = measure(counts_of(logits, label), NAMES, dense=False)
    expected = metrics.classification_report(
        label, guess, target_names=NAMES, output_dict=True, digits=12
    )
    for key, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert values.pop(key) == pytest.approx({each: expected[each][name] for each in NAMES})
    assert values == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(label, guess),
            "weighted_f1": metrics.f1_score(label, guess, average="weighted"),
            "macro_recall": metrics.balanced_accuracy_score(label, guess),
            "kappa": metrics.cohen_kappa_score(label, guess),
            "nll": metrics.log_loss(label, softmax(logits)),
            "calibration_error": binned_error(softmax(logits), label, 15),
        },
        rel=1e-9,
    )


def test_the_confusion_matrix_has_true_classes_as_rows(
    guesses: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = guesses
    expected = metrics.confusion_matrix(label, logits.argmax(axis=1))
    assert counts_of(logits, label)["confusion"] == expected.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 250])
def test_the_batch_size_does_not_change_the_counts(
    guesses: tuple[np.ndarray, np.ndarray], batch_size: int
) -> None:
    whole, batched = counts_of(*guesses), counts_of(*guesses, batch_size=batch_size)
    assert batched["confusion"] == whole["confusion"]
    assert batched["nll"] == pytest.approx(whole["nll"], rel=1e-12)
    for name, values in whole["calibration"].items():
        assert batched["calibration"][name] == pytest.approx(values, rel=1e-12)


def test_metrics_by_hand() -> None:
    # True 0, 0, 0, 1 and guessed 0, 0, 1, 1.
    logits = logits_for([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    values = measure(counts_of(logits, np.array([0, 0, 0, 1]), bins=4), ("no", "yes"), dense=True)
    assert values == {
        "accuracy": pytest.approx(3 / 4),
        # F1 of class 0 is 2 * 1 * (2/3) / (5/3) = 4/5, of class 1 it is 2/3.
        "weighted_f1": pytest.approx((3 * 4 / 5 + 2 / 3) / 4),
        "macro_recall": pytest.approx((2 / 3 + 1) / 2),
        # Agreement by chance: 3/4 * 2/4 + 1/4 * 2/4 = 1/2.
        "kappa": pytest.approx((3 / 4 - 1 / 2) / (1 - 1 / 2)),
        "nll": pytest.approx(-math.log(0.9 * 0.8 * 0.3 * 0.6) / 4),
        # Bin [0.5, 0.75): 0.7 wrong and 0.6 right; bin [0.75, 1]: 0.9 and 0.8 right.
        "calibration_error": pytest.approx(0.5 * abs(0.5 - 0.65) + 0.5 * abs(1 - 0.85)),
        "mean_iou": pytest.approx((2 / 3 + 1 / 2) / 2),
        "precision": {"no": pytest.approx(1), "yes": pytest.approx(1 / 2)},
        "recall": {"no": pytest.approx(2 / 3), "yes": pytest.approx(1)},
        "f1": {"no": pytest.approx(4 / 5), "yes": pytest.approx(2 / 3)},
    }


def test_the_commonest_class_is_that_of_the_targets_not_of_the_predictions() -> None:
    # True 0, 0, 0, 1 and guessed 1 each time.
    logits = logits_for([[0.1, 0.9]] * 4)
    found = commonest_class(counts_of(logits, np.array([0, 0, 0, 1])), ("no", "yes"))
    assert found == {"class": "no", "accuracy": 0.75}


def test_a_class_that_is_never_a_target_is_left_out_of_all_means() -> None:
    # Class 2 is guessed once but never true; class 3 is neither.
    label, guess = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    logits = 5.0 * np.eye(4)[guess]
    values = measure(counts_of(logits, label), NAMES, dense=True)
    assert values["macro_recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert values["mean_iou"] == pytest.approx((1 / 2 + 1) / 2)
    assert values["weighted_f1"] == pytest.approx((2 * 2 / 3 + 2 * 1) / 4)
    assert values["precision"] == {"zero": 1.0, "one": 1.0, "two": 0.0, "three": 0.0}


def test_a_confidence_of_one_falls_in_the_last_bin() -> None:
    summary = counts_of(np.array([[1000.0, 0.0], [0.0, 1000.0]]), np.array([0, 0]), bins=5)
    assert summary["calibration"] == {
        "count": [0, 0, 0, 0, 2],
        "confidence": [0, 0, 0, 0, 2],
        "correct": [0, 0, 0, 0, 1],
    }
    assert calibration_error(summary["calibration"]) == 0.5
    assert summary["nll"] == 500


def test_calibration_error_by_hand() -> None:
    calibration = {"count": [4, 0, 6], "confidence": [1.0, 0.0, 5.4], "correct": [2, 0, 3]}
    # 4/10 * |2/4 - 1/4| + 6/10 * |3/6 - 0.9|
    assert calibration_error(calibration) == pytest.approx(0.1 + 0.24)


def test_over_and_under_confidence_do_not_cancel_between_bins() -> None:
    calibration = {"count": [1, 1], "confidence": [0.4, 0.9], "correct": [0.9, 0.4]}
    assert calibration_error(calibration) == pytest.approx(0.5)


def test_scaled_metrics_are_those_of_the_divided_logits_and_the_others_stay(
    guesses: tuple[np.ndarray, np.ndarray],
) -> None:
    logits, label = guesses
    accumulator = MetricAccumulator(4, 15, None, CPU, 2.5)
    outcome = accumulator.update(torch.from_numpy(logits), torch.from_numpy(label))
    found = measure(accumulator.summary(), NAMES, dense=False)
    probability = softmax(logits.astype(np.float64) / 2.5)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    assert outcome["prediction"].tolist() == logits.argmax(axis=1).tolist()
    assert outcome["confidence_scaled"].numpy() == pytest.approx(confidence, rel=1e-12)
    assert outcome["nll_scaled"].numpy() == pytest.approx(
        -np.log(probability[np.arange(len(label)), label]), rel=1e-12
    )
    surest = np.argsort(-confidence)[: round(0.8 * len(label))]
    scaled = {
        "temperature": 2.5,
        "nll_scaled": metrics.log_loss(label, probability),
        "calibration_error_scaled": binned_error(probability, label, 15),
        "accuracy_at_80": right[surest].mean(),
    }
    assert {name: found.pop(name) for name in scaled} == pytest.approx(scaled, rel=1e-9)
    assert found == measure(counts_of(logits, label, batch_size=250), NAMES, dense=False)


def test_an_empty_accumulator_has_an_nll_and_calibration_error_of_0() -> None:
    summary = MetricAccumulator(3, 4, None, CPU).summary()
    assert summary["nll"] == 0
    assert calibration_error(summary["calibration"]) == 0
    summary = MetricAccumulator(3, 4, None, CPU, 2.0).summary()
    assert summary["nll_scaled"] == 0
    assert math.isnan(summary["accuracy_at_80"])


def test_an_update_returns_the_outcome_of_each_sample() -> None:
    logits = logits_for([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    outcome = MetricAccumulator(3, 4, None, CPU).update(
        torch.from_numpy(logits), torch.tensor([0, 1])
    )
    assert outcome["prediction"].tolist() == [0, 2]
    assert outcome["correct"].tolist() == [1, 0]
    assert outcome["labelled"].tolist() == [1, 1]
    assert outcome["confidence"].tolist() == pytest.approx([0.7, 0.6])
    assert outcome["nll"].tolist() == pytest.approx([-math.log(0.7), -math.log(0.3)])


def test_an_ignored_class_is_left_out_and_predicting_it_is_wrong() -> None:
    logits = 5.0 * np.eye(3)[[0, 1, 2, 2]]
    accumulator = MetricAccumulator(3, 4, 2, CPU)
    outcome = accumulator.update(torch.from_numpy(logits), torch.tensor([0, 2, 1, 2]))
    assert outcome["labelled"].tolist() == [1, 0, 1, 0]
    assert outcome["correct"].tolist() == [1, 0, 0, 0]
    assert accumulator.summary()["confusion"] == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_two_images_of_dense_labels_by_hand() -> None:
    # Class 2 is no target. In image 0, two of three labelled pixels are correct; one is predicted
    # as 2.
    label = np.array([[[0, 1], [1, 2]], [[2, 2], [0, 1]]])
    guess = np.array([[[0, 1], [2, 2]], [[0, 1], [1, 1]]])
    confidence = np.array([[[0.8, 0.6], [0.5, 0.9]], [[0.9, 0.9], [0.7, 0.6]]])
    probability = np.where(
        np.arange(3)[None, :, None, None] == guess[:, None],
        confidence[:, None],
        (1 - confidence[:, None]) / 2,
    )
    accumulator = MetricAccumulator(3, 2, 2, CPU)
    outcome = accumulator.update(torch.from_numpy(np.log(probability)), torch.from_numpy(label))
    assert outcome["prediction"].tolist() == [-1, -1]
    assert outcome["labelled"].tolist() == [3, 2]
    assert outcome["correct"].tolist() == [2, 1]
    assert outcome["confidence"].tolist() == pytest.approx([1.9 / 3, 1.3 / 2])
    nll = [-math.log(0.8 * 0.6 * 0.25), -math.log(0.15 * 0.6)]
    assert outcome["nll"].tolist() == pytest.approx([nll[0] / 3, nll[1] / 2])
    values = measure(accumulator.summary(), ("a", "b", "none"), dense=True)
    assert values["accuracy"] == pytest.approx(3 / 5)
    assert values["macro_recall"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    # Class 0: 1 of 2 true pixels, no false one. Class 1: 2 right, 1 missed, 1 too many.
    assert values["mean_iou"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert values["precision"] == {"a": 1.0, "b": pytest.approx(2 / 3), "none": 0.0}
    assert values["nll"] == pytest.approx(sum(nll) / 5)
    # All five confidences are at least 0.5, so in the upper bin.
    assert values["calibration_error"] == pytest.approx(abs(3 - 3.2) / 5)


def test_dense_metrics_equal_those_of_scikit_learn_on_the_labelled_pixels() -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(4, size=(9, 5, 6))
    logits = rng.normal(size=(9, 4, 5, 6)).astype(np.float32)
    logits += 1.5 * (np.arange(4)[:, None, None] == label[:, None])
    values = measure(counts_of(logits, label, ignored=3, batch_size=4), NAMES, dense=True)
    flat = np.moveaxis(logits, 1, -1).reshape(-1, 4)
    labelled = label.ravel() != 3
    true, guess, probability = (
        label.ravel()[labelled],
        flat.argmax(1)[labelled],
        softmax(flat)[labelled],
    )
    assert (guess == 3).any()
    pairs = {"average": None, "zero_division": 0}
    for name, score in (
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("f1", metrics.f1_score),
    ):
        expected = dict(zip(NAMES, score(true, guess, **pairs), strict=True))
        assert values.pop(name) == pytest.approx(expected)
    present = [0, 1, 2]
    assert values == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(true, guess),
            "weighted_f1": metrics.f1_score(true, guess, average="weighted"),
            "macro_recall": metrics.recall_score(true, guess, average="macro", labels=present),
            "kappa": metrics.cohen_kappa_score(true, guess),
            "nll": -np.log(probability[np.arange(len(true)), true]).mean(),
            "calibration_error": binned_error(probability, true, 15),
            "mean_iou": metrics.jaccard_score(true, guess, average="macro", labels=present),
        },
        rel=1e-9,
    )


def test_an_ignored_label_need_not_be_a_class() -> None:
    accumulator = MetricAccumulator(2, 4, 255, CPU)
    logits = torch.from_numpy(logits_for([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]))
    outcome = accumulator.update(logits, torch.tensor([0, 255, 0]))
    assert outcome["labelled"].tolist() == [1, 0, 1]
    assert accumulator.summary()["confusion"] == [[1, 1], [0, 0]]
    assert accumulator.summary()["nll"] == pytest.approx(-math.log(0.9 * 0.4) / 2)


def test_an_image_without_labelled_pixels_adds_nothing() -> None:
    accumulator = MetricAccumulator(2, 3, 1, CPU)
    outcome = accumulator.update(torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, dtype=torch.long))
    assert {name: value.tolist() for name, value in outcome.items()} == {
        "prediction": [-1],
        "confidence": [0.0],
        "nll": [0.0],
        "correct": [0],
        "labelled": [0],
    }
    assert np.sum(accumulator.summary()["confusion"]) == 0
