"""What was read: how many samples of what, how long they are, what is missing or was repaired."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mst_distill.benchmarks.class_counts import ClassCounts
from mst_distill.data.modality_values import measure_values, value_warnings
from mst_distill.data.samples import SPLITS, Samples

LISTED = 100
"""Samples that were left out are named one by one up to this many."""


def count_classes(samples: Samples, splits: pd.DataFrame) -> pd.DataFrame:
    """Count samples: a row a class, in their order, and one for all, a column a split.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.
    """
    names = pd.Series(["(dense)", *samples.classes]).reindex(splits["label"] + 1).to_numpy()
    rows = ["(dense)"] if samples.dense else list(samples.classes)
    counts = _cross(names, splits).reindex(rows, fill_value=0)
    counts.loc["all"] = [(splits["split"] == split).sum() for split in SPLITS]
    return counts.assign(all=counts.sum(axis=1)).rename_axis("class").reset_index()


def describe(samples: Samples, splits: pd.DataFrame) -> dict[str, Any]:
    """Say all else that a reader of the samples wants to know, as JSON values.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.

    Returns:
        ``samples``, ``groups`` and ``splits`` (counts), ``modalities`` (see `measure_values`),
        ``sources`` (where the benchmark tells them: counts by split), ``notes`` (of every figure
        that was noted while reading: smallest, median, largest, sum, and how many samples have
        another one than 0), ``omitted`` (how many, and the first with their reasons), ``pixels``
        (where labels are dense: class to counts by split), and ``warnings``: sentences on classes
        that can hardly be learned or judged, modalities that are far from unit scale and samples
        that are constant.
    """
    report: dict[str, Any] = {
        "samples": len(samples),
        "groups": int(splits["group"].nunique()),
        "splits": {split: int((splits["split"] == split).sum()) for split in SPLITS},
        "modalities": {
            name: measure_values(name, array) for name, array in samples.modalities.items()
        },
    }
    if "source" in samples.index:
        by_source = _cross(samples.index["source"].to_numpy(), splits)
        report["sources"] = by_source.to_dict(orient="index")
    report["notes"] = {name: _spread(samples.index[name]) for name in samples.notes}
    first = list(samples.omitted.items())[:LISTED]
    report["omitted"] = {"count": len(samples.omitted), "first": dict(first)}
    counts = ClassCounts.of(
        samples.labels, splits["split"].to_numpy(), samples.classes, samples.ignored_label
    )
    if samples.dense:
        report["pixels"] = counts.table.to_dict(orient="index")
    report["warnings"] = [*counts.warnings(), *value_warnings(report["modalities"])]
    return report


def _cross(rows: Any, splits: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(rows, splits["split"].to_numpy())
    return table.reindex(columns=list(SPLITS), fill_value=0)


def _spread(values: pd.Series[float]) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(values.median()),
        "max": float(values.max()),
        "sum": float(values.sum()),
        "samples_not_0": int((values != 0).sum()),
    }
