"""Metrics of the student by the values of a column of the sample index, such as a speaker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mst_distill.data.samples import check_columns
from mst_distill.evaluate.bootstrap import MIN_GROUPS, Bootstrap
from mst_distill.evaluate.verdict import paired_difference

LEAST = 30
"""With fewer test samples, a value is only named: an accuracy of 80 % has a standard error of more
than seven points."""

LISTED = 10
"""The largest number of values that a sentence names."""


def metrics_by_value(
    predictions: pd.DataFrame, index: pd.DataFrame, columns: Sequence[str], bootstrap: Bootstrap
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare student and baseline on the test samples of every value.

    Args:
        predictions: One row for each sample and model, from `evaluate_models`.
        index: The index of the samples, with ``id``.
        columns: Names of its columns.
        bootstrap: Settings of the intervals. They resample the groups of the samples, or the
            samples themselves where a value has fewer than `MIN_GROUPS` groups. They are not
            corrected for the number of values.

    Returns:
        Column to value to ``samples``, ``accuracy`` and ``baseline`` (shares in [0, 1]),
        ``difference`` with ``low`` and ``high``, and ``enough``: whether there are `LEAST` samples.
        Values without a test sample are left out.

    Raises:
        ValueError: See `check_columns`.
    """
    check_columns(index, columns)
    models = predictions[predictions["model"].isin(["student", "baseline"])]
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column in columns:
        values = models["id"].map(index.set_index("id")[column].astype(str))
        found[column] = {
            str(value): _compare(rows, bootstrap) for value, rows in models.groupby(values)
        }
    return found


def _compare(rows: pd.DataFrame, bootstrap: Bootstrap) -> dict[str, Any]:
    if rows["group"].nunique() < MIN_GROUPS:
        rows = rows.assign(group=rows["id"])
    sums = rows.groupby("model")[["correct", "labelled"]].sum()
    accuracy = sums["correct"] / sums["labelled"]
    count = int(rows["id"].nunique())
    return {
        "samples": count,
        "accuracy": float(accuracy["student"]),
        "baseline": float(accuracy["baseline"]),
        **paired_difference(rows, "student", "baseline", bootstrap),
        "enough": count >= LEAST,
    }


def sentences_by_value(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """State for every column the value of the lowest accuracy, and those with too few samples.

    Args:
        found: From `metrics_by_value`.
    """
    for column, values in found.items():
        enough = {value: of for value, of in values.items() if of["enough"]}
        few = [value for value in values if value not in enough]
        if enough:
            worst, of = min(enough.items(), key=lambda item: item[1]["accuracy"])
            yield (
                f"Of the values of {column!r} with at least {LEAST} test samples, {worst} has the "
                f"lowest accuracy: {of['accuracy']:.1%} of {of['samples']} samples."
            )
        if few:
            more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
            yield (
                f"Too few test samples to tell anything, fewer than {LEAST}, for the values of "
                f"{column!r}: {', '.join(few[:LISTED])}{more}."
            )
