"""The exported student on a server: a table of raw values in, a table of predictions out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from mst_distill.artifacts.student_input import load_student_input
from mst_distill.deploy.predict import Student
from mst_distill.media.readers import Reader, Takes

BATCH = 32
"""The number of tensors in memory at the same time."""


class ServedStudent:
    """A student of raw values.

    Args:
        folder: The exported folder.
        trusted: An import path; a reader of its top-level package is built, see `ReaderRecord`.

    Attributes:
        modality: What it sees.
        takes: What a raw value is; None if values are tensors, because the student has no reader.
        columns: The columns of the table of raw values. A value that is a file is its content.
        shape: Shape of one tensor.
        outputs: The columns of the table of predictions. ``label`` is a class, or with dense labels
            the index of the class of every pixel, and ``confidence`` the probability of the label,
            or its mean over the pixels; ``p:CLASS`` is the probability of a class. ``error`` says
            why a value could not be read; the other columns are empty then.
    """

    def __init__(self, folder: Path, trusted: str = "") -> None:
        card = load_student_input(folder / "student_input.json")
        self._student = Student(folder)
        self._reader: Reader | None = card.reader.open(trusted) if card.reader else None
        self._dense, self._classes = card.dense, card.classes
        self.modality, self.shape = card.modality, card.shape
        self.takes: Takes | None = self._reader.takes if self._reader else None
        names = self._reader.column_names() if self._reader else ()
        self.columns = names or (self.modality,)
        of_classes = () if self._dense else tuple(f"p:{name}" for name in self._classes)
        self.outputs = ("label", "confidence", *of_classes, "error")

    def predict(self, values: pd.DataFrame | Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Predict a row for each row of values.

        Args:
            values: A table with `columns`, or, without a reader, `modality` to ``(n, *shape)``.

        Returns:
            `outputs`; None where there is no value, for which JSON has a literal.

        Raises:
            ValueError: Tensors have another shape than `shape`.
        """
        if self._reader is None:
            tensors = np.asarray(values[self.modality], np.float32)
            read: Iterator[np.ndarray | str] = iter(tensors)
        else:
            read = (self._read(value) for value in self._rows(pd.DataFrame(values)))
        rows = [row for batch in _batches(read) for row in self._predict(batch)]
        return pd.DataFrame(rows, columns=list(self.outputs), dtype=object)

    def _rows(self, table: pd.DataFrame) -> Iterator[Any]:
        """Yield the raw value of each row."""
        if self.takes == "numbers":
            yield from table[list(self.columns)].to_numpy(np.float64)
        else:
            yield from table[self.columns[0]]

    def _read(self, value: Any) -> np.ndarray | str:
        """Read one raw value; a text says why it cannot be read."""
        assert self._reader is not None
        if self.takes != "numbers" and pd.isna(value):
            return f"the {self.modality} is missing"
        with TemporaryDirectory() as folder:
            file = str(Path(folder, self.modality))
            if self.takes == "path":
                Path(file).write_bytes(value)
                value = file
            try:
                return self._reader.read_one(value)[0]
            except (ValueError, OSError) as error:
                return str(error).replace(file, self.modality)

    def _predict(self, read: Sequence[np.ndarray | str]) -> list[list[Any]]:
        """Predict a row for each tensor, and one with the error for each text."""
        tensors = [each for each in read if not isinstance(each, str)]
        found = iter(self._student.probabilities(np.stack(tensors)) if tensors else ())
        empty = [None] * (len(self.outputs) - 2)
        return [
            ["", *empty, each] if isinstance(each, str) else self._row(next(found)) for each in read
        ]

    def _row(self, probabilities: np.ndarray) -> list[Any]:
        if self._dense:
            label = probabilities.argmax(axis=0).tolist()
            return [label, float(probabilities.max(axis=0).mean()), ""]
        best = int(probabilities.argmax())
        return [self._classes[best], float(probabilities[best]), *probabilities.tolist(), ""]


def _batches(read: Iterator[np.ndarray | str]) -> Iterator[list[np.ndarray | str]]:
    batch: list[np.ndarray | str] = []
    for each in read:
        batch.append(each)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
