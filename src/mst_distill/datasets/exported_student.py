"""The dataset of an exported student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from mst_distill.deploy.export import Export, export_student

if TYPE_CHECKING:
    from mst_distill.deploy.predict import Student


class ExportedStudentDataset(AbstractDataset[Export, "Student"]):
    """Export a student to a folder, and load it from there for ONNX Runtime.

    Args:
        path: The folder; saving replaces it as a whole.
        metadata: Not used by Kedro; for plugins.
    """

    def __init__(self, *, path: str, metadata: dict[str, Any] | None = None) -> None:
        self._path = Path(path)
        self.metadata = metadata

    def load(self) -> Student:
        """Open the ONNX and the description of its input."""
        from mst_distill.deploy.predict import Student

        return Student(self._path)

    def save(self, data: Export) -> None:
        """Write and check the folder, see `export_student`."""
        export_student(data, self._path)

    def _exists(self) -> bool:
        return (self._path / "student.onnx").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path)}
