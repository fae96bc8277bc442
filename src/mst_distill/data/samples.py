"""Samples: what the raw files are turned into, and what every later stage reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mst_distill.artifacts.student_input import ReaderRecord
from mst_distill.errors import did_you_mean

SPLITS = ("train", "valid", "test")
"""The three splits, in the order in which they are used."""

LABELLED = "labelled"
"""The column of the table of splits that says whether the label of a sample may be used. There is
no such column if all may be used."""

UNLABELLED = -1
"""The label of a training sample whose class is not known."""

MOST_VALUES = 50
"""The largest number of values of a column by which metrics are computed."""

ABSENT = "absent"
"""The column of the index with the modalities that a sample does not have, separated by spaces.
There is no such column if all samples have all modalities."""


@dataclass(frozen=True)
class Samples:
    """N samples, opened from a sample store.

    Attributes:
        index: One row for each sample, in store order, with the columns ``id`` (unique), ``group``
            (what splits must not share: an actor, a speaker, a scene), ``split`` (the benchmark's
            own leak-free split), ``label`` (-1 if labels are dense), and `ABSENT` if some samples
            lack a modality.
        modalities: Array ``(N, *shape)`` of each modality by name; float32, memory-mapped. The rows
            of samples without the modality are NaN, or 0 if the type is integer.
        labels: ``(N,)`` class indices, `UNLABELLED` for training samples without a label, or
            ``(N, H, W)`` for dense labels.
        classes: Class names, in the order of the logits.
        ignored_label: The label that is not a target (dense tasks), or None.
        digest: SHA-256 over ``id``, ``group``, ``split``, ``label`` and `ABSENT` of the index, the
            classes, all arrays and the readers. Equal data have an equal digest on any machine on
            which the readers fit equal numbers.
        notes: The columns of `index` that describe how a sample was read: durations, repairs.
        omitted: Samples that were left out because they are incomplete or damaged, id to reason.
        readers: How a raw value of each modality was read, if the source has readers.
        folder: The store, from which another process can open the samples; None if they are in
            memory.
        recorded: Array ``(N, F)`` of the outputs that each given teacher of a run has in a file, by
            the name of the teacher. No other net reads them.
    """

    index: pd.DataFrame
    modalities: dict[str, np.ndarray]
    labels: np.ndarray
    classes: tuple[str, ...]
    ignored_label: int | None
    digest: str
    notes: tuple[str, ...] = ()
    omitted: Mapping[str, str] = field(default_factory=dict)
    readers: Mapping[str, ReaderRecord] = field(default_factory=dict)
    folder: Path | None = None
    recorded: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """All that nets can read: the modalities, and what is recorded."""
        return {**self.modalities, **self.recorded}

    @property
    def dense(self) -> bool:
        """Whether every pixel has a label of its own."""
        return self.labels.ndim > 1

    @cached_property
    def present(self) -> dict[str, np.ndarray]:
        """``(N,)``, whether each sample has a modality, by name; only for those that some lack."""
        if ABSENT not in self.index:
            return {}
        found = {name: ~lacks(self.index, name) for name in self.modalities}
        return {name: has for name, has in found.items() if not has.all()}

    def have(self, modalities: Iterable[str]) -> np.ndarray:
        """Return whether each sample has all of some modalities, ``(N,)``."""
        everywhere = np.ones(len(self), dtype=bool)
        for name in modalities:
            everywhere &= self.present.get(name, True)
        return everywhere

    def __deepcopy__(self, memo: dict[int, object]) -> Samples:
        """Return the object itself: samples are never modified, so a copy would waste memory."""
        return self


def lacks(index: pd.DataFrame, modality: str) -> np.ndarray:
    """Return whether each sample of an index lacks a modality, ``(n,)``."""
    if ABSENT not in index:
        return np.zeros(len(index), dtype=bool)
    return np.array([modality in absent.split() for absent in index[ABSENT]], dtype=bool)


def are_complete(index: pd.DataFrame) -> np.ndarray:
    """Return whether each sample of an index has all modalities, ``(n,)``."""
    if ABSENT not in index:
        return np.ones(len(index), dtype=bool)
    return np.array([not absent.strip() for absent in index[ABSENT]], dtype=bool)


def are_unlabelled(samples: Samples, splits: pd.DataFrame) -> np.ndarray:
    """Return whether the label of each sample is unknown, or hidden by the run, ``(N,)``.

    Args:
        samples: The store.
        splits: The run's splits.
    """
    hidden = np.zeros(len(splits), dtype=bool)
    if not samples.dense:
        hidden |= samples.labels == UNLABELLED
    if LABELLED in splits:
        hidden |= ~splits[LABELLED].to_numpy()
    return hidden


def labelled_splits(samples: Samples, splits: pd.DataFrame) -> pd.Series[str]:
    """Return the split of each sample whose label a run uses; an empty text for the others."""
    return splits["split"].mask(are_unlabelled(samples, splits), "")


def rows_of(splits: pd.DataFrame, split: str) -> np.ndarray:
    """Return the store rows of one split, in ascending order.

    Without their labels, samples of ``valid`` and ``test`` are of no use and are left out.

    Args:
        splits: The table of `assign_splits`, with one row for each sample in store order.
        split: ``train``, ``valid`` or ``test``.
    """
    chosen = splits["split"].to_numpy() == split
    if split != "train" and LABELLED in splits:
        chosen &= splits[LABELLED].to_numpy()
    return np.flatnonzero(chosen)


def rows_having(
    samples: Samples, splits: pd.DataFrame, split: str, needed: Iterable[str]
) -> np.ndarray:
    """Return those of `rows_of` whose samples have all needed modalities."""
    rows = rows_of(splits, split)
    return rows[samples.have(needed)[rows]]


def check_columns(index: pd.DataFrame, columns: Sequence[str]) -> None:
    """Check that metrics can be computed by the values of some columns.

    Args:
        index: The index of the samples.
        columns: Names of columns, from ``evaluate.by``.

    Raises:
        ValueError: The index has no such column, or it has more than `MOST_VALUES` values; the
            message names the nearest, or the column and its number of values.
    """
    for column in columns:
        if column not in index:
            raise ValueError(did_you_mean("column in evaluate.by", column, list(index)))
        if (count := index[column].nunique()) > MOST_VALUES:
            raise ValueError(
                f"evaluate.by has the column {column!r}, which has {count} values; at most "
                f"{MOST_VALUES} can be compared"
            )
