"""Node of `export`."""

from __future__ import annotations

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.student_input import StudentInput
from mst_distill.deploy.export import Export


def export_student(student: ModelBundle, student_input: StudentInput, model_card: str) -> Export:
    """Put together what is exported; the data set writes and checks the files."""
    return Export(student, student_input, model_card)
