"""Execution of the project's notebooks in a copy of the project."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from projects import ENVIRONMENT


def execute_notebook(
    project: Path, name: str, settings: dict[str, str] | None = None
) -> list[nbformat.NotebookNode]:
    """Execute all cells of a notebook in a copied project.

    Args:
        project: The root of the project.
        name: The path of the notebook in the project.
        settings: Old text to new text in the cells, for values that a user would change.

    Returns:
        The outputs of all cells.
    """
    notebook = nbformat.read(project / name, as_version=4)
    for old, new in (settings or {}).items():
        assert any(old in cell.source for cell in notebook.cells), old
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    resources = {"metadata": {"path": str(project / "notebooks")}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    client.execute(env=os.environ | ENVIRONMENT)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    return [output for cell in code for output in cell.outputs]


def figures_of(outputs: list[nbformat.NotebookNode]) -> list[str]:
    """The pictures among the outputs, base64."""
    data = [output.get("data", {}) for output in outputs]
    return [values["image/png"] for values in data if "image/png" in values]
