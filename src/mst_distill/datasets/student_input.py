"""The dataset of a student's input: how it is read, and what the logits mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from mst_distill.artifacts.student_input import (
    StudentInput,
    load_student_input,
    save_student_input,
)


class StudentInputDataset(AbstractDataset[StudentInput, StudentInput]):
    """A JSON, and a safetensors file with what the reader has fitted.

    Args:
        filepath: The JSON; the other file is in the same folder.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(filepath)
        self.metadata = metadata

    def load(self) -> StudentInput:
        """See `load_student_input`."""
        return load_student_input(self._path)

    def save(self, data: StudentInput) -> None:
        """See `save_student_input`."""
        save_student_input(data, self._path)

    def files(self) -> list[Path]:
        """Return both files."""
        return [self._path, self._path.with_suffix(".safetensors")]

    def _exists(self) -> bool:
        return self._path.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._path)}
