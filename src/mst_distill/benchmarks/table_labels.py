"""The labels of a table as classes, and the mistakes that a column of labels can have."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from mst_distill.benchmarks.class_counts import FEW
from mst_distill.benchmarks.table_file import TableFile, text_in

MOST_NUMBERS = 10
"""Numbers that have more different values than this are examined: they may be a measurement."""

LEAST_REPEATED = 10
"""Whole numbers that are classes have at least this many rows for each value, on average."""


def classes_of(table: TableFile, column: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Find the classes of a column of labels.

    Args:
        table: The table.
        column: The column; white space around its texts does not count.

    Returns:
        The classes, numbers in the order of their values and texts in alphabetical order, and
        ``(N,)`` the position of each row's class, -1 for a row without a label.

    Raises:
        ValueError: A class is written in several ways, the column looks like a measurement, or has
            fewer than two classes; the message names file, column and lines.
    """
    where = f"{table.path}: the column {column!r}"
    labels = table.texts(column)
    numbers = _as_numbers(labels)
    _reject_spellings(table, where, table.cells[column], numbers)
    if numbers:
        _reject_measurement(table, where, labels, numbers)
    found = set(labels) - {""}
    classes = tuple(sorted(found, key=lambda name: (numbers[name],) if numbers else (name,)))
    if len(classes) < 2:
        has = f"only one class, {classes[0]!r}" if classes else "no label"
        raise ValueError(f"{where} has {has} in {len(table)} rows; at least two classes are needed")
    position = {name: index for index, name in enumerate(classes)}
    return classes, np.array([position.get(label, -1) for label in labels])


def check_training_samples(
    table: TableFile,
    column: str,
    classes: Sequence[str],
    index: pd.DataFrame,
) -> None:
    """Raise an error for a class with too few training samples.

    Args:
        table: The table.
        column: The column of labels.
        classes: Class names, in the order of the labels.
        index: ``row`` (of `table`), ``label`` and ``split`` of each sample.

    Raises:
        ValueError: A class has fewer than five training samples; the message names its lines.
    """
    rows, labels = index["row"].to_numpy(), index["label"].to_numpy()
    train = index["split"].to_numpy() == "train"
    for label, name in enumerate(classes):
        count = int((train & (labels == label)).sum())
        if count < FEW:
            of_class = rows[labels == label].tolist()
            place = f" ({table.where(of_class)})" if of_class else ""
            raise ValueError(
                f"{table.path}: the class {name!r} of the column {column!r} has {count} training "
                f"samples out of {len(of_class)}{place}; each class needs at least {FEW}: leave "
                f"the class out, merge it with another one, or add samples"
            )


def _as_numbers(labels: Sequence[str]) -> dict[str, float]:
    """Return each label with its number if all labels are numbers; else an empty dict."""
    numbers = {}
    for label in set(labels) - {""}:
        try:
            numbers[label] = float(label)
        except ValueError:
            return {}
        if not math.isfinite(numbers[label]):
            return {}
    return numbers


def _reject_spellings(
    table: TableFile, where: str, cells: Sequence[object], numbers: Mapping[str, float]
) -> None:
    """Reject two ways to write one class: case, white space, or the format of a number."""
    key: Callable[[str], object] = (lambda text: numbers[text.strip()]) if numbers else _plain
    rows_of: dict[object, dict[str, list[int]]] = {}
    for row, cell in enumerate(cells):
        text = text_in(cell)
        if text.strip():
            rows_of.setdefault(key(text), {}).setdefault(text, []).append(row)
    for spellings in rows_of.values():
        if len(spellings) > 1:
            often, *_, rare = sorted(spellings, key=lambda text: -len(spellings[text]))
            raise ValueError(
                f"{where} has {rare!r} in {table.where(spellings[rare])} and {often!r} in "
                f"{len(spellings[often])} rows: write a class in one way everywhere"
            )


def _plain(text: str) -> str:
    """Return a text without differences of case, of white space, and of Unicode's forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _reject_measurement(
    table: TableFile, where: str, labels: Sequence[str], numbers: Mapping[str, float]
) -> None:
    """Reject numbers that look like a measurement and not like the names of classes."""
    if len(numbers) <= MOST_NUMBERS:
        return
    fractions = [label for label in numbers if not numbers[label].is_integer()]
    labelled = sum(label != "" for label in labels)
    if fractions or labelled < LEAST_REPEATED * len(numbers):
        examples = ", ".join(sorted(numbers, key=lambda label: numbers[label])[:3])
        rows = [row for row, label in enumerate(labels) if label in (fractions or numbers)]
        raise ValueError(
            f"{where} has {len(numbers)} different numbers in {labelled} rows, such as {examples} "
            f"({table.where(rows)}), and looks like a measurement; labels must be classes: form "
            f"classes from ranges of it, or name another column as `label`"
        )
