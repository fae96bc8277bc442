"""Predict with the exported student in the folder of this file.

It needs NumPy and ONNX Runtime alone:

    pip install numpy onnxruntime
    python predict.py TENSORS.npy [...] > predictions.csv

A file has one tensor of the shape in student_input.json, or several along a first axis, in the
range that the reader of student_input.json gives them. The output has a row for each tensor: the
label, its probability as the confidence, and the probability of every class. For a student that
labels pixels, FILE.classes.npy gets the class of every pixel, and the output their mean confidence.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Student:
    """An exported student.

    Args:
        folder: The folder with student_input.json and student.onnx.

    Attributes:
        card: The content of student_input.json.
        shape: Shape of one tensor; None for a side of any length.
    """

    def __init__(self, folder: Path) -> None:
        self.card: dict[str, Any] = json.loads(
            (folder / "student_input.json").read_text(encoding="utf-8")
        )
        self._session = onnxruntime.InferenceSession(
            str(folder / "student.onnx"), providers=["CPUExecutionProvider"]
        )
        (entry,) = self._session.get_inputs()
        self._name = entry.name
        self.shape = tuple(side if isinstance(side, int) else None for side in entry.shape[1:])

    def logits(self, tensors: np.ndarray) -> np.ndarray:
        """Map ``(n, *shape)`` to logits ``(n, classes)``, or ``(n, classes, H, W)``.

        Raises:
            ValueError: The tensors have another shape.
        """
        found = tensors.shape[1:]
        if len(found) != len(self.shape) or any(
            wanted not in (None, side) for side, wanted in zip(found, self.shape, strict=True)
        ):
            raise ValueError(f"the tensors have the shape {found}; the student needs {self.shape}")
        logits: np.ndarray = self._session.run(None, {self._name: tensors.astype(np.float32)})[0]
        return logits

    def probabilities(self, tensors: np.ndarray) -> np.ndarray:
        """Map ``(n, *shape)`` to calibrated probabilities in the shape of the logits."""
        scaled = self.logits(tensors).astype(np.float64) / self.card["temperature"]
        exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)


def rows(student: Student, file: Path, batch: int = 32) -> Iterator[list[Any]]:
    """Yield the file, the position, the label, the confidence and the probabilities of tensors.

    Raises:
        ValueError, OSError: The file has no tensors of the student's shape; the message names it.
    """
    try:
        tensors: np.ndarray = np.lib.format.open_memmap(file, mode="r")
        if tensors.ndim == len(student.shape):
            tensors = tensors[None]
        names, maps = student.card["classes"], []
        for start in range(0, len(tensors), batch):
            found = student.probabilities(np.asarray(tensors[start : start + batch]))
            for row, each in enumerate(found, start):
                if student.card["dense"]:
                    maps.append(each.argmax(axis=0).astype(np.int32))
                    yield [file, row, "", each.max(axis=0).mean()]
                else:
                    yield [file, row, names[each.argmax()], each.max(), *each]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if maps:
        np.save(file.with_suffix(".classes.npy"), np.stack(maps))


def main() -> None:
    """Print a CSV of the predictions for the files on the command line."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    student = Student(Path(__file__).parent)
    names = [] if student.card["dense"] else student.card["classes"]
    out = csv.writer(sys.stdout)
    out.writerow(["file", "row", "label", "confidence", *(f"p:{name}" for name in names)])
    try:
        for name in sys.argv[1:]:
            out.writerows(rows(student, Path(name)))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
