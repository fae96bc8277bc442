"""The metrics of a run as tables of texts, for the page and the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.artifacts.provenance import made_with
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.verdict import metric_interval
from mst_distill.metric import Metric, metric_of

METRICS = {
    "accuracy": ("accuracy, %", 100, ".1f"),
    "accuracy_at_80": ("accuracy on the 80 % most confident, %", 100, ".1f"),
    "mean_iou": ("mean IoU, %", 100, ".1f"),
    "weighted_f1": ("weighted F1, %", 100, ".1f"),
    "macro_recall": ("macro recall, %", 100, ".1f"),
    "kappa": ("Cohen's kappa", 1, ".3f"),
    "nll": ("NLL as is, nats", 1, ".3f"),
    "nll_scaled": ("NLL scaled, nats", 1, ".3f"),
    "calibration_error": ("calibration error as is, %", 100, ".1f"),
    "calibration_error_scaled": ("calibration error scaled, %", 100, ".1f"),
    "temperature": ("temperature", 1, ".2f"),
}
"""Metric to its heading, its scale and its format specification, in the order of the tables. A
metric that no model has is left out."""

DIFFERENCES = {
    "nll": "nll_over_baseline",
    "nll_scaled": "nll_scaled_over_baseline",
}
"""Metric to the section of the report that has its paired difference with an interval, as the
metric that decides has in ``gain_over_baseline``."""

STUDENT, BASELINE = "student", "baseline"

NONE = "–"


@dataclass(frozen=True)
class RunResults:
    """The results of a run on the test split.

    Attributes:
        target: The student's modality.
        metrics: From `comparison_report`, with ``models``: model name to its metrics.
        metric_counts: Model name to `MetricAccumulator.summary`.
        predictions: One row for each sample and model, from `evaluate_models`.
        bootstrap: Settings of the intervals.
    """

    target: str
    metrics: Mapping[str, Any]
    metric_counts: Mapping[str, Any]
    predictions: pd.DataFrame
    bootstrap: Bootstrap

    @property
    def models(self) -> Mapping[str, Mapping[str, Any]]:
        """Model name to its metrics."""
        models: Mapping[str, Mapping[str, Any]] = self.metrics["models"]
        return models

    @cached_property
    def metric(self) -> Metric:
        """The metric that decides."""
        return metric_of(self.metrics.get("metric", "accuracy"))

    @property
    def shown(self) -> dict[str, tuple[str, float, str]]:
        """`METRICS`, behind the one that decides."""
        metric = self.metric
        return {metric.name: (metric.heading, metric.scale, metric.spec(1)), **METRICS}

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.models[STUDENT]["recall"])

    @property
    def targets(self) -> np.ndarray:
        """``(C,)``, the number of labelled test samples (pixels, with dense labels) by class."""
        return np.array(self.metric_counts[STUDENT]["confusion"]).sum(axis=1)

    def interval(self, model: str) -> dict[str, float]:
        """The metric of a student with its interval: ``value``, ``low`` and ``high``."""
        rows = self.predictions[self.predictions["model"] == model]
        return metric_interval(rows, self.bootstrap, self.metric)


def student_table(results: RunResults) -> pd.DataFrame:
    """Compare student and baseline: a row for each metric.

    The metric that decides has intervals, and so have the differences that are paired by sample.
    """
    student, baseline = (results.models[name] for name in (STUDENT, BASELINE))
    rows = []
    for metric, (heading, scale, spec) in results.shown.items():
        if metric not in student and metric not in baseline:
            continue
        cells = [_number(model.get(metric), scale, spec) for model in (student, baseline)]
        if metric == results.metric.name:
            ends = [_ends(results.interval(name), scale, spec) for name in (STUDENT, BASELINE)]
            cells = [f"{cell}{end}" for cell, end in zip(cells, ends, strict=True)]
        rows.append([heading, *cells, _difference(results, metric, scale, spec)])
    level = f"{results.bootstrap.confidence:.0%}"
    heads = ["metric", STUDENT, BASELINE, f"difference ({level} interval)"]
    return pd.DataFrame(rows, columns=heads)


def models_table(results: RunResults) -> pd.DataFrame:
    """Return the metrics of all models except student and baseline: a row for each model."""
    others = {name: of for name, of in results.models.items() if name not in (STUDENT, BASELINE)}
    table = pd.DataFrame({"model": list(others)})
    for metric, (heading, scale, spec) in results.shown.items():
        if any(metric in model for model in others.values()):
            table[heading] = [_number(of.get(metric), scale, spec) for of in others.values()]
    return table


def class_table(results: RunResults, counted: str) -> pd.DataFrame:
    """Return recall, precision and F1 of the student, and the baseline's recall, by class.

    Args:
        results: The run.
        counted: What the numbers of targets count: ``samples`` or ``pixels``.
    """
    student, baseline = (results.models[name] for name in (STUDENT, BASELINE))
    present = results.targets > 0

    def percent(values: Mapping[str, float]) -> list[str]:
        shares = zip(values.values(), present, strict=True)
        return [_number(share, 100, ".1f") if known else NONE for share, known in shares]

    return pd.DataFrame(
        {
            "class": results.classes,
            f"test {counted}": [f"{count:,}" for count in results.targets],
            "recall, %": percent(student["recall"]),
            "recall of the baseline, %": percent(baseline["recall"]),
            "precision, %": percent(student["precision"]),
            "F1, %": percent(student["f1"]),
        }
    )


def value_tables(results: RunResults) -> dict[str, pd.DataFrame]:
    """Return a table for each column of ``evaluate.by``, with a row for each of its values."""
    tables = {}
    name, (_, scale, spec) = next(iter(results.shown.items()))
    signed = f"+z{spec}"
    for column, values in results.metrics.get("by", {}).items():
        rows = [
            [
                value,
                f"{of['samples']:,}",
                _number(of[name], scale, spec),
                _number(of["baseline"], scale, spec),
                f"{scale * of['difference']:{signed}}{_ends(of, scale, signed)}"
                if of["enough"]
                else "too few samples",
            ]
            for value, of in values.items()
        ]
        level = f"{results.bootstrap.confidence:.0%}"
        heads = [column, "test samples", STUDENT, BASELINE, f"difference ({level} interval)"]
        tables[column] = pd.DataFrame(rows, columns=heads)
    return tables


def origin_table(rows: Mapping[str, str]) -> pd.DataFrame:
    """Return `rows` (name to text) with the git revision and the versions of the code."""
    made = made_with()
    rows = {**rows, "git revision": made["git"], **made["versions"]}
    return pd.DataFrame({"what": list(rows), "value": list(rows.values())})


def _difference(results: RunResults, metric: str, scale: float, spec: str) -> str:
    """Format student minus baseline; temperatures are not compared."""
    student, baseline = (results.models[name].get(metric) for name in (STUDENT, BASELINE))
    if metric == "temperature" or student is None or baseline is None:
        return NONE
    section = DIFFERENCES.get(metric, "")
    if metric == results.metric.name:
        section = "gain_over_baseline"
    paired = results.metrics.get(section, {}).get(STUDENT, {})
    signed = f"+z{spec}"  # without z, a rounded -0.04 is -0.0
    return f"{scale * (student - baseline):{signed}}{_ends(paired, scale, signed)}"


def _ends(interval: Mapping[str, float | None], scale: float, spec: str) -> str:
    """Format the ends of an interval as `` (LOW to HIGH)``; an empty text if there is none."""
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None or np.isnan([low, high]).any():
        return ""
    return f" ({scale * low:{spec}} to {scale * high:{spec}})"


def _number(value: float | None, scale: float, spec: str) -> str:
    return NONE if value is None or np.isnan(value) else f"{scale * value:{spec}}"
