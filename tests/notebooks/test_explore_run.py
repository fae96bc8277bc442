"""The notebook executes completely on a short real run, and does not change it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notebook_runs import execute_notebook, figures_of
from projects import copy_project, run_session, stages

NOTEBOOK = "notebooks/explore_run.ipynb"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.mark.long
def test_the_notebook_shows_a_finished_run(project: Path) -> None:
    run_session(project, **stages(epochs=1))
    before = _files(project / "data")

    outputs = execute_notebook(project, NOTEBOOK)

    assert len(figures_of(outputs)) == 6
    assert _report(project)["verdict"] in json.dumps(outputs)
    assert _files(project / "data") == before


def _report(project: Path) -> dict[str, object]:
    folder = project / "data/08_reporting/digits/heldout-all/image/seed-0/main"
    return json.loads((folder / "metrics.json").read_text())


def _files(folder: Path) -> dict[Path, int]:
    """Every file to the time of its last modification."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
