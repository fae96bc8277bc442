"""The tables of metrics, against values by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mst_distill.report.tables import RunResults, class_table, models_table, student_table
from toy_reports import results_of


def rows_of(table: pd.DataFrame) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table.to_numpy().tolist()}


def with_models(results: RunResults, **sections) -> RunResults:
    return replace(results, metrics={**results.metrics, **sections})


def test_metrics_that_no_model_has_are_left_out() -> None:
    rows = rows_of(student_table(results_of([[3, 1], [1, 5]], 0.7)))
    assert list(rows) == [
        *("accuracy, %", "weighted F1, %", "macro recall, %", "Cohen's kappa"),
        *("NLL as is, nats", "calibration error as is, %"),
    ]
    # 8 of 10 correct; recalls 3/4 and 5/6; all predictions in one bin of confidence 0.7.
    assert rows["accuracy, %"][0].startswith("80.0 (")
    assert rows["macro recall, %"][:2] == ["79.2", "79.2"]
    assert rows["calibration error as is, %"] == ["10.0", "10.0", "+0.0"]


def test_scaled_metrics_are_next_to_those_as_they_are() -> None:
    results = results_of(
        [[3, 1], [1, 5]],
        0.7,
        nll_scaled=0.4,
        calibration_error_scaled=0.021,
        temperature=0.52,
        accuracy_at_80=0.875,
    )
    baseline = {**results.models["baseline"], "nll_scaled": 0.45, "temperature": 1.5}
    results = with_models(results, models={**results.models, "baseline": baseline})
    paired = {"student": {"difference": -0.05, "low": -0.08, "high": -0.02}}
    rows = rows_of(student_table(with_models(results, nll_scaled_over_baseline=paired)))
    assert rows["NLL scaled, nats"] == ["0.400", "0.450", "-0.050 (-0.080 to -0.020)"]
    assert rows["calibration error scaled, %"] == ["2.1", "–", "–"]
    assert rows["temperature"] == ["0.52", "1.50", "–"]  # a difference would mean nothing
    assert rows["accuracy on the 80 % most confident, %"] == ["87.5", "–", "–"]


def test_a_difference_that_is_rounded_to_zero_has_no_minus() -> None:
    results = results_of([[3, 1], [1, 5]], 0.7)
    baseline = {**results.models["baseline"], "nll": 0.5001}
    results = with_models(results, models={**results.models, "baseline": baseline})
    assert rows_of(student_table(results))["NLL as is, nats"] == ["0.500", "0.500", "+0.000"]


def test_an_accuracy_has_its_bootstrap_interval() -> None:
    results = results_of([[3, 1], [1, 5]], 0.7)
    outcomes = np.array([1] * 8 + [0] * 2)
    draws = results.bootstrap.means(outcomes[:, None], np.ones(10))[:, 0]
    low, high = 100 * np.quantile(draws, [0.025, 0.975])
    (accuracy, *_) = rows_of(student_table(results))["accuracy, %"]
    assert accuracy == f"80.0 ({low:.1f} to {high:.1f})"
    assert low < 60
    assert high == 100


@pytest.mark.parametrize("low", [None, float("nan")])
def test_a_difference_without_an_interval_is_a_number(low: float | None) -> None:
    paired = {"student": {"difference": 0.0, "low": low, "high": low}}
    results = with_models(results_of([[3, 1], [1, 5]], 0.7), gain_over_baseline=paired)
    assert rows_of(student_table(results))["accuracy, %"][2] == "+0.0"


def test_classes_without_targets_have_counts_alone() -> None:
    table = class_table(results_of([[1, 1, 0], [0, 2, 2], [0, 0, 0]], 0.5), "samples")
    assert list(table)[1] == "test samples"
    assert table.to_numpy().tolist() == [
        ["a", "2", "50.0", "50.0", "100.0", "66.7"],
        ["b", "4", "50.0", "50.0", "66.7", "57.1"],
        ["c", "0", "–", "–", "–", "–"],
    ]


def test_all_other_models_have_a_row() -> None:
    results = results_of([[3, 1], [1, 5]], 0.7)
    other = {"accuracy": 0.9, "nll": float("nan"), "recall": {}}
    models = {**results.models, "multimodal teacher": other, "audio/dense": {"accuracy": 0.5}}
    table = models_table(with_models(results, models=models))
    assert list(table) == ["model", "accuracy, %", "NLL as is, nats"]
    assert table.to_numpy().tolist() == [
        ["multimodal teacher", "90.0", "–"],
        ["audio/dense", "50.0", "–"],
    ]
