"""A summary of the samples: counts, notes taken while reading, omitted samples and warnings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mst_distill.benchmarks.class_counts import ClassCounts
from mst_distill.data.modality_values import measure_values, value_warnings
from mst_distill.data.samples import SPLITS, UNLABELLED, Samples, are_unlabelled, labelled_splits

LISTED = 100
"""The largest number of omitted samples that the report lists."""


def count_classes(samples: Samples, splits: pd.DataFrame) -> pd.DataFrame:
    """Count samples: a row for each class, in order, and one for all; a column for each split.

    Samples without a label, or with one that the run hides, have a row of their own.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.
    """
    hidden = are_unlabelled(samples, splits)
    labels = splits["label"].mask(hidden, UNLABELLED)
    missing = "(dense)" if samples.dense else "(no label)"
    names = pd.Series([missing, *samples.classes]).reindex(labels + 1).to_numpy()
    if samples.dense:
        names = np.where(hidden, "(no label)", names)
    rows = ["(dense)"] if samples.dense else list(samples.classes)
    rows += ["(no label)"] * bool(hidden.any())
    counts = _count_by_split(names, splits).reindex(rows, fill_value=0)
    counts.loc["all"] = [(splits["split"] == split).sum() for split in SPLITS]
    return counts.assign(all=counts.sum(axis=1)).rename_axis("class").reset_index()


def labels_used(samples: Samples, splits: pd.DataFrame) -> str:
    """Return a sentence on the labels that a run has seen; an empty text if these are all.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.
    """
    labelled = ~are_unlabelled(samples, splits)
    if labelled.all():
        return ""
    counts = []
    for split, name in (("train", "training"), ("valid", "validation")):
        of_split = (splits["split"] == split).to_numpy()
        counts.append(f"{(of_split & labelled).sum():,} of {of_split.sum():,} {name} samples")
    return f"All models together have seen the labels of {counts[0]} and {counts[1]}."


def describe(samples: Samples, splits: pd.DataFrame) -> dict[str, Any]:
    """Summarize everything about the samples except `count_classes`, as JSON values.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.

    Returns:
        ``samples``, ``groups``, ``splits``, ``groups_by_split`` and ``labels`` (those that the run
        uses, by split; counts), ``modalities`` (see `measure_values`), ``sources`` (counts by
        split, if the benchmark has a column ``source``), ``combinations`` (counts by split of the
        modalities that samples have, if some lack one), ``notes`` (for each: minimum, median,
        maximum, sum, and the number of samples in which it is not 0),
        ``omitted`` (the number of omitted samples, and the first of them with their reasons),
        ``pixels`` (counts by class and split, if labels are dense), and ``warnings``: sentences on
        classes with too few samples to learn or evaluate them, on modalities far from unit scale
        and on constant samples.
    """
    report: dict[str, Any] = {
        "samples": len(samples),
        "groups": int(splits["group"].nunique()),
        "splits": {split: int((splits["split"] == split).sum()) for split in SPLITS},
        "groups_by_split": {
            split: int(splits.loc[splits["split"] == split, "group"].nunique()) for split in SPLITS
        },
        "modalities": {
            name: measure_values(name, array, samples.have([name]))
            for name, array in samples.modalities.items()
        },
    }
    if "source" in samples.index:
        by_source = _count_by_split(samples.index["source"].to_numpy(), splits)
        report["sources"] = by_source.to_dict(orient="index")
    if samples.present:
        combinations = _combinations(samples)
        report["combinations"] = _count_by_split(combinations, splits).to_dict(orient="index")
    report["notes"] = {name: _note_statistics(samples.index[name]) for name in samples.notes}
    listed = list(samples.omitted.items())[:LISTED]
    report["omitted"] = {"count": len(samples.omitted), "first": dict(listed)}
    labelled = labelled_splits(samples, splits)
    report["labels"] = {split: int((labelled == split).sum()) for split in SPLITS}
    counts = ClassCounts.of(
        samples.labels, labelled.to_numpy(), samples.classes, samples.ignored_label
    )
    if samples.dense:
        report["pixels"] = counts.table.to_dict(orient="index")
    report["warnings"] = [*counts.warnings(), *value_warnings(report["modalities"])]
    return report


def _combinations(samples: Samples) -> np.ndarray:
    """Return the names of the modalities that each sample has, such as ``image + audio``."""
    has = {name: samples.have([name]) for name in samples.modalities}
    return np.array(
        [" + ".join(name for name in has if has[name][row]) for row in range(len(samples))]
    )


def evaluated_samples(samples: Samples, splits: pd.DataFrame, target: str) -> str:
    """Return sentences on the held-out samples that models cannot see; an empty text if they can.

    Args:
        samples: The store.
        splits: The run's table of splits, in store order.
        target: The student's modality.
    """
    test = (splits["split"] == "test").to_numpy()
    seen = {
        f"The students were evaluated on the {{}} test samples with the modality {target}.": [
            target
        ],
        "Teachers and specialists were evaluated on the {} with all modalities.": [
            *samples.modalities
        ],
    }
    counts = {text: int((test & samples.have(names)).sum()) for text, names in seen.items()}
    return " ".join(
        text.format(f"{count:,} of {test.sum():,}")
        for text, count in counts.items()
        if count < test.sum()
    )


def _count_by_split(keys: Any, splits: pd.DataFrame) -> pd.DataFrame:
    table = pd.crosstab(keys, splits["split"].to_numpy())
    return table.reindex(columns=list(SPLITS), fill_value=0)


def _note_statistics(values: pd.Series[float]) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "median": float(values.median()),
        "max": float(values.max()),
        "sum": float(values.sum()),
        "samples_not_0": int((values.fillna(0) != 0).sum()),
    }
