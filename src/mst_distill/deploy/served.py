"""The exported student on a server: a table of raw values in, a table of predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from mst_distill.artifacts.student_input import load_student_input
from mst_distill.deploy.answers import answer_table
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
        dense: Whether every pixel has a label.
        outputs: The columns of the table of predictions: those of `answer_table` and, for dense
            labels, ``pixels``: the position of the class of every pixel, as rows of a picture.
    """

    def __init__(self, folder: Path, trusted: str = "") -> None:
        card = load_student_input(folder / "student_input.json")
        self._student = Student(folder)
        self._reader: Reader | None = card.reader.open(trusted) if card.reader else None
        self.dense, self._classes = card.dense, card.classes
        self.modality, self.shape = card.modality, card.shape
        self.takes: Takes | None = self._reader.takes if self._reader else None
        self.columns = (self._reader and self._reader.columns) or (self.modality,)
        pixels = ("pixels",) if card.dense else ()
        probabilities = (f"p:{name}" for name in card.classes)
        self.outputs = ("label", *pixels, "confidence", *probabilities, "error")

    def predict(
        self, values: pd.DataFrame | Mapping[str, np.ndarray], least_confidence: float = 0.0
    ) -> pd.DataFrame:
        """Predict a row for each row of values.

        Args:
            values: A table with `columns`, or, without a reader, `modality` to ``(n, *shape)``.
            least_confidence: A value, or a pixel, with a smaller confidence gets no label.

        Returns:
            `outputs`; None where there is no value, for which JSON has a literal.

        Raises:
            ValueError: Tensors have another shape than `shape`.
        """
        raw = np.asarray(values[self.columns[0]])
        if self.takes == "numbers":
            raw = pd.DataFrame(values)[list(self.columns)].to_numpy(np.float64)
        starts = range(0, max(len(raw), 1), BATCH)
        tables = [self._answer(raw[start : start + BATCH], least_confidence) for start in starts]
        return pd.concat(tables, ignore_index=True)

    def _answer(self, values: np.ndarray, least_confidence: float) -> pd.DataFrame:
        """Answer a few values."""
        tensors, errors = self._read(values)
        probabilities = self._student.probabilities(tensors)
        table, maps = answer_table(probabilities, errors, self._classes, least_confidence)
        if self.dense:
            rows = [None if pixels is None else pixels.tolist() for pixels in maps]
            table["pixels"] = pd.Series(rows, dtype=object)
        table = table[list(self.outputs)].astype(object)
        return table.where(table.notna(), None)

    def _read(self, values: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Read the values that can be read; the others have an error by position."""
        if self._reader is None:
            return values, {}
        errors = {
            position: f"the {self.modality} is missing"
            for position, value in enumerate(values)
            if self.takes != "numbers" and pd.isna(value)
        }
        present = [position for position in range(len(values)) if position not in errors]
        with TemporaryDirectory() as folder:
            files = [Path(folder, str(position), self.modality) for position in present]
            if self.takes == "path":
                for position, file in zip(present, files, strict=True):
                    file.parent.mkdir()
                    file.write_bytes(values[position])
                read = self._reader.read_readable([str(file) for file in files])
            else:
                read = self._reader.read_readable([values[position] for position in present])
        tensors, unreadable = read
        for number, error in unreadable.items():
            errors[present[number]] = error.replace(str(files[number]), self.modality)
        return np.empty((0, *self.shape)) if tensors is None else tensors, errors
