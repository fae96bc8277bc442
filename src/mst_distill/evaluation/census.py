"""What was read: how many samples of what, how long they are, what is missing or was repaired."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mst_distill.samples import SPLITS, Samples

LISTED = 100
"""Samples that were left out are named one by one up to this many."""


def count_classes(samples: Samples, splits: pd.DataFrame) -> pd.DataFrame:
    """Count samples: a row a class and one for all, a column a split.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.
    """
    names = pd.Series(["(dense)", *samples.classes]).reindex(splits["label"] + 1).to_numpy()
    counts = _cross(names, splits)
    counts.loc["all"] = counts.sum()
    return counts.assign(all=counts.sum(axis=1)).rename_axis("class").reset_index()


def describe(samples: Samples, splits: pd.DataFrame) -> dict[str, Any]:
    """Say all else that a reader of the samples wants to know, as JSON values.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.

    Returns:
        ``samples``, ``groups`` and ``splits`` (counts), ``modalities`` (shape and type of one
        sample), ``sources`` (where the benchmark tells them: counts by split), ``notes`` (of every
        figure that was noted while reading: smallest, median, largest, sum, and how many samples
        have another one than 0), ``omitted`` (how many, and the first with their reasons).
    """
    report: dict[str, Any] = {
        "samples": len(samples),
        "groups": int(splits["group"].nunique()),
        "splits": {split: int((splits["split"] == split).sum()) for split in SPLITS},
        "modalities": {
            name: f"{' x '.join(map(str, array.shape[1:]))} {array.dtype}"
            for name, array in samples.modalities.items()
        },
    }
    if "source" in samples.index:
        counts = _cross(samples.index["source"].to_numpy(), splits)
        report["sources"] = counts.to_dict(orient="index")
    report["notes"] = {name: _spread(samples.index[name]) for name in samples.notes}
    first = list(samples.omitted.items())[:LISTED]
    report["omitted"] = {"count": len(samples.omitted), "first": dict(first)}
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
