"""Metrics of the student by the values of a column of the sample index, such as a speaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mst_distill.data.samples import check_columns
from mst_distill.evaluate.bootstrap import MIN_GROUPS, Bootstrap
from mst_distill.evaluate.verdict import metric_value, paired_difference
from mst_distill.metric import ACCURACY, Metric

LEAST = 30
"""With fewer test samples, a value is only named: an accuracy of 80 % has a standard error of more
than seven points."""

LISTED = 10
"""The largest number of values that a sentence names."""


def metrics_by_value(
    predictions: pd.DataFrame,
    index: pd.DataFrame,
    columns: Sequence[str],
    bootstrap: Bootstrap,
    metric: Metric = ACCURACY,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare student and baseline on the test samples of every value.

    Args:
        predictions: One row for each sample and model, from `evaluate_models`.
        index: The index of the samples, with ``id``.
        columns: Names of its columns.
        bootstrap: Settings of the intervals. They resample the groups of the samples, or the
            samples themselves where a value has fewer than `MIN_GROUPS` groups. They are not
            corrected for the number of values.
        metric: The metric that decides.

    Returns:
        Column to value to ``samples``, the metric of the student by its name, ``baseline`` (that of
        the baseline), ``difference`` with ``low`` and ``high``, and ``enough``: whether there are
        `LEAST` samples and the metric is defined. Values without a test sample are left out.

    Raises:
        ValueError: See `check_columns`.
    """
    check_columns(index, columns)
    models = predictions[predictions["model"].isin(["student", "baseline"])]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in columns:
        values = models["id"].map(index.set_index("id")[column].astype(str))
        found[column] = {
            str(value): _compare(rows, bootstrap, metric) for value, rows in models.groupby(values)
        }
    return found


def _compare(rows: pd.DataFrame, bootstrap: Bootstrap, metric: Metric) -> dict[str, Any]:
    if rows["group"].nunique() < MIN_GROUPS:
        rows = rows.assign(group=rows["id"])
    count = int(rows["id"].nunique())
    enough = count >= LEAST
    try:
        student, baseline = (
            metric_value(rows[rows["model"] == name], metric) for name in ("student", "baseline")
        )
        difference = paired_difference(rows, "student", "baseline", bootstrap, metric)
    except ValueError:  # the metric is not defined on these samples
        student = baseline = float("nan")
        difference, enough = dict.fromkeys(("difference", "low", "high"), float("nan")), False
    values = {metric.name: student, "baseline": baseline}
    return {"samples": count, **values, **difference, "enough": enough}


def sentences_by_value(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], metric: Metric = ACCURACY
) -> Iterator[str]:
    """State for every column the value of the lowest metric, and those with too few samples.

    Args:
        found: From `metrics_by_value`.
        metric: The metric that decides.
    """
    undefined = "" if metric.values is None else f" or without a defined {metric.title}"
    for column, values in found.items():
        enough = {value: of for value, of in values.items() if of["enough"]}
        few = [value for value in values if value not in enough]
        if enough:
            worst, of = min(enough.items(), key=lambda item: item[1][metric.name])
            lowest = metric.text(of[metric.name])
            yield (
                f"Of the values of {column!r} with at least {LEAST} test samples, {worst} has the "
                f"lowest {metric.title}: {lowest} of {of['samples']} samples."
            )
        if few:
            more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
            yield (
                f"Too few test samples to tell anything, fewer than {LEAST}{undefined}, for the "
                f"values of {column!r}: {', '.join(few[:LISTED])}{more}."
            )
