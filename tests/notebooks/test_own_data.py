"""The notebook goes from a table to predictions on new rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notebook_runs import execute_notebook, figures_of
from projects import copy_project

SHORT = "--params=teachers.epochs=2,masks.epochs=1,route.epochs=2,runtime.tracking=false"


@pytest.mark.long
def test_a_table_becomes_a_student_that_predicts(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    settings = {'OPTIONS = ""': f'OPTIONS = "{SHORT}"'}
    outputs = execute_notebook(project, "notebooks/own_data.ipynb", settings)
    text = json.dumps(outputs)
    assert "Data and networks fit together" in text
    run = "cells/heldout-all/mean/seed-0/main"
    report = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert report["verdict"] in text.replace("\\u2212", "-")
    assert len(figures_of(outputs)) == 1
    table = outputs[-1]["data"]["text/html"]
    assert "is 'unknown'" in table
    assert table.count("malignant") >= 5  # the first rows of the data are
