"""The selection criteria: each ranks the epochs of a training by their validation metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mst_distill.training.loop import Criterion, Row


def criteria(metric: str) -> dict[str, Criterion]:
    """The selection criteria by name, of which the first is named after the metric that decides.

    Args:
        metric: The name of the metric's column. With the accuracy and balanced class weights, the
            mean recall of the classes is in its place.
    """

    def by_metric(row: Row) -> tuple[float, ...]:
        # Rounded, because the last digits of an accuracy depend on how the samples are batched.
        return (round(metric_in(row, metric), 9), -row["valid_ce"])

    return {metric: by_metric, "ce": _by_cross_entropy, "last": _by_epoch}


def metric_in(row: Mapping[Any, float], metric: str) -> float:
    """The validation value of the metric that decides, from the history or the means of some.

    Args:
        row: The columns ``valid_NAME``.
        metric: The name of the metric's column.
    """
    value = row[f"valid_{metric}"]
    return row.get("valid_macro_recall", value) if metric == "accuracy" else value


def _by_cross_entropy(row: Row) -> tuple[float, ...]:
    return (-row["valid_ce"],)


def _by_epoch(row: Row) -> tuple[float, ...]:
    return (row["epoch"],)


SELECTION = criteria("accuracy")
"""The criteria with the default metric: the largest validation accuracy (ties are broken by
cross-entropy), the smallest validation cross-entropy, or the last epoch.

The smallest cross-entropy is a trap: for a student that learns from labels alone it selects an
epoch that is far too early.
"""
