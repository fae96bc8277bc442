"""int8 against float32: its figures, its samples, the tolerated loss and the sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax

from mst_distill.artifacts.student_input import StudentInput
from mst_distill.data.samples import ABSENT, Samples
from mst_distill.evaluate import int8
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.int8 import calibration_rows, check_loss, compare_int8, int8_sentence
from toys import make_samples

BOOTSTRAP = Bootstrap(500, 0.9, 0)


def input_of(samples: Samples, modality: str, ignored: int | None = None) -> StudentInput:
    shape = samples.modalities[modality].shape[1:]
    dense = samples.dense
    return StudentInput(modality, shape, dense, samples.classes, ignored, 0.5, "0", None)


def linear(shape: tuple[int, ...], noise: float = 0.0) -> Callable[[np.ndarray], np.ndarray]:
    """A model of three classes with fixed weights; `noise` moves its logits."""
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(int(np.prod(shape)), 3)) / 4
    other = weights + noise * rng.normal(size=weights.shape)
    return lambda tensors: (tensors.reshape(len(tensors), -1) @ other).astype(np.float32)


def pixels(noise: float) -> Callable[[np.ndarray], np.ndarray]:
    """A model of three classes for each pixel of one channel."""
    slopes = np.array([-1.0, 0.1 + noise, 1.0])[:, None, None]
    return lambda tensors: (slopes * tensors).astype(np.float32)


def expected_metrics(logits: np.ndarray, labels: np.ndarray, scale: float, bins: int):
    """Accuracy, NLL and calibration error of ``(n, C)`` in float64, one bin at a time."""
    log_probability = log_softmax(logits.astype(np.float64) / scale, axis=1)
    confidence = np.exp(log_probability.max(axis=1))
    correct = log_probability.argmax(axis=1) == labels
    error = 0.0
    for number in range(bins):
        within = (confidence * bins >= number) & (confidence * bins < number + 1)
        if within.any():
            error += within.mean() * abs(correct[within].mean() - confidence[within].mean())
    nll = -log_probability[np.arange(len(labels)), labels]
    return correct, nll, error


def test_the_figures_are_those_of_a_plain_computation_in_float64() -> None:
    samples, splits = make_samples(300)
    test = np.flatnonzero(splits["split"] == "test")
    models = {"float32": linear((1, 8, 8)), "int8": linear((1, 8, 8), 0.05)}
    student = input_of(samples, "image")
    report = compare_int8(samples, splits, student, models, 10, BOOTSTRAP)
    assert (report["samples"], report["temperature"], report["confidence"]) == (60, 0.5, 0.9)
    plain = {}
    for name, model in models.items():
        logits, labels = model(samples.modalities["image"][test]), samples.labels[test]
        correct, nll, error = expected_metrics(logits, labels, 1.0, 10)
        _, nll_scaled, error_scaled = expected_metrics(logits, labels, 0.5, 10)
        assert report[name] == pytest.approx(
            {
                "accuracy": correct.mean(),
                "nll": nll.mean(),
                "nll_scaled": nll_scaled.mean(),
                "calibration_error": error,
                "calibration_error_scaled": error_scaled,
            },
            rel=1e-12,
        )
        plain[name] = {"accuracy": correct, "nll": nll, "nll_scaled": nll_scaled}
    assert report["float32"]["accuracy"] != report["int8"]["accuracy"]
    for metric, found in report["difference"].items():
        gain = plain["int8"][metric].astype(float) - plain["float32"][metric]
        rng = np.random.default_rng(99)
        draws = [gain[rng.integers(60, size=60)].mean() for _ in range(4000)]
        low, high = np.quantile(draws, [0.05, 0.95])
        width = high - low
        assert found["difference"] == pytest.approx(gain.mean(), rel=1e-9)
        assert found["low"] == pytest.approx(low, abs=0.2 * width)
        assert found["high"] == pytest.approx(high, abs=0.2 * width)
    json.loads(json.dumps(report, allow_nan=False))


def test_groups_are_resampled_whole() -> None:
    samples, splits = make_samples(300)
    groups = splits["split"] + (np.arange(300) // 3 % 6).astype(str)
    models = {"float32": linear((1, 8, 8)), "int8": linear((1, 8, 8), 0.2)}
    arguments = (input_of(samples, "image"), models, 10, BOOTSTRAP)
    grouped = splits.assign(group=groups)
    single = compare_int8(samples, splits, *arguments)["difference"]["nll"]
    whole = compare_int8(samples, grouped, *arguments)["difference"]["nll"]
    test = np.flatnonzero(splits["split"] == "test")
    nll = {
        name: expected_metrics(
            model(samples.modalities["image"][test]), samples.labels[test], 1.0, 10
        )[1]
        for name, model in models.items()
    }
    gain = pd.Series(nll["int8"] - nll["float32"]).groupby(groups.to_numpy()[test], sort=False)
    sums = np.stack([gain.sum(), gain.count()])
    rng = np.random.default_rng(0)
    drawn = (sums[:, rng.integers(6, size=6)].sum(axis=1) for _ in range(4000))
    low, high = np.quantile([total / count for total, count in drawn], [0.05, 0.95])
    assert whole["difference"] == pytest.approx(single["difference"])
    assert whole["low"] == pytest.approx(low, abs=0.15 * (high - low))
    assert whole["high"] == pytest.approx(high, abs=0.15 * (high - low))
    assert whole["low"] != single["low"]


def test_pixels_count_unless_they_are_ignored() -> None:
    samples, splits = make_samples(40, {"depth": (1, 4, 6)}, dense=(4, 6), ignored=0)
    test = np.flatnonzero(splits["split"] == "test")
    models = {"float32": pixels(0.0), "int8": pixels(0.5)}
    student = input_of(samples, "depth", ignored=0)
    report = compare_int8(samples, splits, student, models, 10, BOOTSTRAP)
    labels = samples.labels[test]
    correct, labelled = {}, labels != 0
    for name, model in models.items():
        logits = model(samples.modalities["depth"][test])
        correct[name] = (logits.argmax(axis=1) == labels) & labelled
        assert report[name]["accuracy"] == pytest.approx(correct[name].sum() / labelled.sum())
        flat = np.moveaxis(logits, 1, -1)[labelled]
        _, nll, error = expected_metrics(flat, labels[labelled], 1.0, 10)
        assert report[name]["nll"] == pytest.approx(nll.mean(), rel=1e-12)
        assert report[name]["calibration_error"] == pytest.approx(error, rel=1e-9)
        assert 0 < report[name]["mean_iou"] < 1
    loss = (correct["int8"].sum() - correct["float32"].sum()) / labelled.sum()
    assert report["difference"]["accuracy"]["difference"] == pytest.approx(loss)


def test_samples_without_the_modality_are_left_out() -> None:
    samples, splits = make_samples(100)
    lacking = np.where(
        np.arange(100) % 4 == 0, "image", np.where(np.arange(100) % 4 == 1, "audio", "")
    )
    samples = replace(samples, index=samples.index.assign(**{ABSENT: lacking}))
    samples.modalities["image"][lacking == "image"] = np.nan
    models = {"float32": linear((1, 8, 8)), "int8": linear((1, 8, 8), 0.1)}
    report = compare_int8(samples, splits, input_of(samples, "image"), models, 5, BOOTSTRAP)
    in_test = (splits["split"] == "test").to_numpy()
    assert report["samples"] == (in_test & (lacking != "image")).sum() < in_test.sum()
    assert report["float32"]["nll"] > 0
    rows = calibration_rows(samples, splits, "image", 0)
    in_train = (splits["split"] == "train").to_numpy()
    assert np.array_equal(rows, np.flatnonzero(in_train & (lacking != "image")))


def test_calibration_draws_training_samples_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, splits = make_samples(1000)
    train = set(np.flatnonzero(splits["split"] == "train"))
    rows = {seed: calibration_rows(samples, splits, "image", seed) for seed in (0, 1)}
    for drawn in rows.values():
        assert len(drawn) == len(set(drawn)) == 512
        assert set(drawn) < train
        assert list(drawn) == sorted(drawn)
    assert set(rows[0]) != set(rows[1])
    assert np.array_equal(calibration_rows(samples, splits, "image", 0), rows[0])
    monkeypatch.setattr(int8, "LARGEST_NUMBERS", 640)  # of 64 each
    assert len(calibration_rows(samples, splits, "image", 0)) == 10
    monkeypatch.setattr(int8, "LARGEST_NUMBERS", 1)
    assert len(calibration_rows(samples, splits, "image", 0)) == 1


def test_large_samples_are_evaluated_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, splits = make_samples(100)
    sizes, model = [], linear((1, 8, 8))

    def counting(tensors: np.ndarray) -> np.ndarray:
        sizes.append(len(tensors))
        return model(tensors)

    models, student = {"float32": counting, "int8": model}, input_of(samples, "image")
    before = compare_int8(samples, splits, student, models, 5, BOOTSTRAP)
    assert sizes == [20]
    monkeypatch.setattr(int8, "LARGEST_BATCH", 3 * 64)
    after = compare_int8(samples, splits, student, models, 5, BOOTSTRAP)
    for name in models:
        assert after[name] == pytest.approx(before[name])
    assert sizes[1:] == [3] * 6 + [2]


def report_of(before: int, after: int, count: int) -> dict[str, Any]:
    """A report on models that are right on the first samples only."""
    samples, splits = make_samples(count)
    splits = splits.assign(split="test")
    ids = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    samples = replace(samples, modalities={"image": ids})

    def right_on(number: int) -> Callable[[np.ndarray], np.ndarray]:
        def logits(tensors: np.ndarray) -> np.ndarray:
            rows = tensors.ravel().astype(int)
            shifted = (samples.labels[rows] + (rows >= number)) % 3
            return 4 * np.eye(3, dtype=np.float32)[shifted]

        return logits

    models = {"float32": right_on(before), "int8": right_on(after)}
    return compare_int8(samples, splits, input_of(samples, "image"), models, 5, BOOTSTRAP)


def test_a_loss_of_just_the_tolerated_size_is_tolerated() -> None:
    report = report_of(95, 94, 100)
    assert report["float32"]["accuracy"] - report["int8"]["accuracy"] > 0.01  # by rounding
    check_loss(report, 0.01)
    check_loss(report_of(94, 95, 100), 0.0)
    check_loss(report_of(95, 95, 100), 0.0)
    with pytest.raises(ValueError, match="less accurate"):
        check_loss(report, 0.0099)


def test_a_larger_loss_is_an_error_that_has_the_figures() -> None:
    with pytest.raises(ValueError, match=r"export\.tolerated_loss") as raised:
        check_loss(report_of(95, 91, 100), 0.03)
    text = str(raised.value)
    found = report_of(95, 91, 100)["difference"]["accuracy"]
    interval = f"+{-100 * found['high']:.2f} to +{-100 * found['low']:.2f}"
    assert "on 100 test samples its accuracy is 91.00%, that of student.onnx 95.00%" in text
    assert f"The loss is +4.00 points, 90% interval {interval}, and 3 points are tolerated" in text


def test_without_an_interval_the_message_says_so() -> None:
    with pytest.raises(ValueError, match=r"The loss is \+100.00 points, without an interval, and"):
        check_loss(report_of(20, 0, 20), 0.5)


def test_the_sentence_has_bytes_times_and_accuracies() -> None:
    report = report_of(95, 94, 100)
    report["float32"] |= {"bytes": 129417, "milliseconds": {"1": {"median": 0.25, "p95": 0.5}}}
    report["int8"] |= {"bytes": 42553, "milliseconds": {"1": {"median": 0.125, "p95": 0.5}}}
    text = int8_sentence(report)
    assert text.startswith(
        "int8 has 42,553 bytes instead of the 129,417 of float32, takes 0.125 ms instead of "
        "0.25 ms for a single sample on one thread, and its accuracy on 100 test samples is "
        "94.00% instead of 95.00% (-1.00 points, 90% interval -"
    )
