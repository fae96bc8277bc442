"""Predict with the exported student in the folder of this file.

It needs NumPy and ONNX Runtime alone:

    pip install numpy onnxruntime
    python predict.py [--int8] FILE [...] > predictions.csv

A file is a .npy with one tensor of the shape in student_input.json, or with several along a first
axis, as the reader of student_input.json gives them. For a student of standardised numbers it may
also be a .csv with the columns of the reader. The output has a row for each tensor: the label, its
probability as the confidence, and the probability of every class. For a student that labels pixels,
FILE.classes.npy gets the class of every pixel, and the output the means over the pixels.
--int8 uses student_int8.onnx, which is smaller, if the student was exported with it.
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
        int8: Whether to use student_int8.onnx instead.

    Attributes:
        folder: The folder.
        card: The content of student_input.json.
        shape: Shape of one tensor; None for a side of any length.

    Raises:
        FileNotFoundError: The folder has no such ONNX; the message names it.
    """

    def __init__(self, folder: Path, int8: bool = False) -> None:
        self.folder = folder
        self.card: dict[str, Any] = json.loads(
            (folder / "student_input.json").read_text(encoding="utf-8")
        )
        file = folder / ("student_int8.onnx" if int8 else "student.onnx")
        if not file.is_file():
            with_int8 = "; it is written with export.int8=true" if int8 else ""
            raise FileNotFoundError(f"{file} does not exist{with_int8}")
        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
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
    names, maps = student.card["classes"], []
    try:
        tensors = standardised(student, file) if file.suffix == ".csv" else opened(student, file)
        for start in range(0, len(tensors), batch):
            found = student.probabilities(np.asarray(tensors[start : start + batch]))
            for row, each in enumerate(found, start):
                if not np.isfinite(each).all():
                    raise ValueError(f"row {row} has no finite probabilities: look for NaN in it")
                label = "" if student.card["dense"] else names[each.argmax()]
                if student.card["dense"]:
                    maps.append(each.argmax(axis=0).astype(np.int32))
                confidence, of_classes = each.max(axis=0).mean(), each.reshape(len(each), -1)
                yield [file, row, label, confidence, *of_classes.mean(axis=1)]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if maps:
        np.save(file.with_suffix(".classes.npy"), np.stack(maps))


def opened(student: Student, file: Path) -> np.ndarray:
    """Open a .npy of one or several tensors as ``(n, *shape)``."""
    tensors: np.ndarray = np.lib.format.open_memmap(file, mode="r")
    return tensors[None] if tensors.ndim == len(student.shape) else tensors


def standardised(student: Student, file: Path) -> np.ndarray:
    """Read a CSV of raw numbers as the reader does: ``(n, columns)``; an empty number is the mean.

    Raises:
        ValueError: The student has another reader, or a column or a number is missing.
    """
    reader = student.card["reader"]
    if not reader or reader["type"] != "mst_distill.media.numbers.StandardisedNumbers":
        kind = reader["type"] if reader else "no reader"
        raise ValueError(f"this page reads no raw values for {kind}; it needs tensors, as .npy")
    content = (student.folder / "student_input.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")  # of the numbers, behind a JSON
    places = json.loads(content[8:start])
    mean, per_deviation = (
        np.frombuffer(content[start:][slice(*places[name]["data_offsets"])], "<f8")
        for name in ("/mean", "/per_deviation")
    )
    names, values = reader["arguments"]["names"], []
    with file.open(newline="", encoding="utf-8-sig") as lines:
        for row, line in enumerate(csv.DictReader(lines)):
            if missing := [name for name in names if line.get(name) is None]:
                raise ValueError(f"row {row} has no column {missing[0]!r}")
            values.append([float(line[name].strip() or "nan") for name in names])
            if np.isnan(values[-1]).all():
                raise ValueError(f"row {row} has no number")
            if np.isinf(values[-1]).any():
                raise ValueError(f"row {row} has an infinite number")
    numbers = np.array(values).reshape(-1, len(names))
    return np.where(np.isnan(numbers), 0, (numbers - mean) * per_deviation)


def main() -> None:
    """Print a CSV of the predictions for the files on the command line."""
    names = [name for name in sys.argv[1:] if name != "--int8"]
    if not names:
        sys.exit(__doc__)
    try:
        student = Student(Path(__file__).parent, int8="--int8" in sys.argv[1:])
        out = csv.writer(sys.stdout)
        classes = (f"p:{name}" for name in student.card["classes"])
        out.writerow(["file", "row", "label", "confidence", *classes])
        for name in names:
            out.writerows(rows(student, Path(name)))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
