"""The notebook executes completely on a short real run, and does not change it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from projects import ENVIRONMENT, ROOT, copy_project, run_session, stages

NOTEBOOK = "notebooks/explore_run.ipynb"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.mark.long
def test_the_notebook_shows_a_finished_run(project: Path) -> None:
    run_session(project, **stages(epochs=1))
    before = _files(project / "data")

    outputs = _execute(project)

    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 6
    assert _report(project)["verdict"] in json.dumps(outputs)
    assert _files(project / "data") == before


def test_the_committed_notebook_has_no_outputs() -> None:
    for cell in nbformat.read(ROOT / NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def _execute(project: Path) -> list[nbformat.NotebookNode]:
    """Execute all cells of the notebook in the copied project; returns their outputs."""
    notebook = nbformat.read(project / NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(project / "notebooks")}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources)
    client.execute(env=os.environ | ENVIRONMENT)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    return [output for cell in code for output in cell.outputs]


def _report(project: Path) -> dict[str, object]:
    folder = project / "data/08_reporting/digits/heldout-all/image/seed-0/main"
    return json.loads((folder / "metrics.json").read_text())


def _files(folder: Path) -> dict[Path, int]:
    """Every file to the time of its last modification."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
