"""The linear model: equal to scikit-learn's on the same values, and bounded in memory."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from mst_distill.data.samples import Samples
from mst_distill.evaluate import linear_model
from mst_distill.evaluate.calibration import fit_temperature
from mst_distill.evaluate.linear_model import evaluate_linear_model
from mst_distill.evaluate.metrics import measure

CLASSES = ("a", "b", "c")


def make_samples(
    shape: tuple[int, ...] = (2, 3), noise: float = 1.0
) -> tuple[Samples, pd.DataFrame]:
    """Return 300 samples whose first values depend on the class, and splits of 200, 40 and 60."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    values = noise * rng.normal(size=(300, *shape)) + 5
    wide = np.repeat(np.eye(3), max(1, values[0].size // 6), axis=1)
    values.reshape(300, -1)[:, : wide.shape[1]] += 10 * wide[labels]
    ids = [f"s{row}" for row in range(300)]
    index = pd.DataFrame({"id": ids, "group": ids, "split": "train", "label": labels})
    splits = index.assign(split=["train"] * 200 + ["valid"] * 40 + ["test"] * 60)
    modalities = {"image": values.astype(np.float32)}
    return Samples(index, modalities, labels, CLASSES, None, "digest"), splits


def test_it_equals_logistic_regression_on_standardised_training_values() -> None:
    samples, splits = make_samples(noise=20.0)
    counts = evaluate_linear_model(samples, splits, "image", 10, 0)
    flat = samples.modalities["image"].reshape(300, -1).astype(np.float64)
    scaled = (flat - flat[:200].mean(axis=0)) / flat[:200].std(axis=0)
    plain = LogisticRegression(max_iter=500).fit(scaled[:200], samples.labels[:200])
    truth, predicted = samples.labels[240:], plain.predict(scaled[240:])
    assert 0.3 < (truth == predicted).mean() < 0.9
    metrics = measure(counts, CLASSES, dense=False)
    assert metrics["accuracy"] == pytest.approx((truth == predicted).mean())
    log_probability = plain.predict_log_proba(scaled[240:])[np.arange(60), truth]
    assert metrics["nll"] == pytest.approx(-log_probability.mean(), rel=1e-4)
    assert counts["training_samples"] == 200
    # The temperature is that of the 40 validation samples.
    valid = plain.predict_log_proba(scaled[200:240])
    temperature = fit_temperature(valid, samples.labels[200:240])
    assert metrics["temperature"] == pytest.approx(temperature, rel=1e-3)
    after = log_softmax(plain.predict_log_proba(scaled[240:]) / temperature, axis=1)
    assert metrics["nll_scaled"] == pytest.approx(-after[np.arange(60), truth].mean(), rel=1e-3)


def test_a_class_without_a_training_sample_is_never_predicted() -> None:
    samples, splits = make_samples()
    only = splits["split"].where((splits["split"] != "train") | (splits["label"] != 1), "unused")
    counts = evaluate_linear_model(samples, splits.assign(split=only), "image", 10, 0)
    assert np.array(counts["confusion"])[:, 1].sum() == 0
    assert np.isfinite(counts["nll"])


def test_wide_samples_are_reduced_and_the_training_samples_limited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, splits = make_samples((3, 20, 20), noise=0.1)
    monkeypatch.setattr(linear_model, "LARGEST_NUMBERS", 40 * 1200)
    assert evaluate_linear_model(samples, splits, "image", 10, 0) == {}  # 20 for each class needed
    monkeypatch.setattr(linear_model, "LARGEST_NUMBERS", 120 * 1200)
    counts = evaluate_linear_model(samples, splits, "image", 10, 0)
    assert counts["training_samples"] == 120
    assert measure(counts, CLASSES, dense=False)["accuracy"] > 0.9
    assert evaluate_linear_model(samples, splits, "image", 10, 0) == counts
