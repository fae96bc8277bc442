"""The notebook lists finished runs with their gains and with the parameters that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notebook_runs import execute_notebook, figures_of
from projects import copy_project, run_session, stages

SHORT = {"limit": 300, **stages(epochs=1)}


@pytest.mark.long
def test_two_runs_are_compared(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    run_session(project, **SHORT)
    run_session(project, **SHORT | {"seed": 1, "route": {"epochs": 2}})
    outputs = execute_notebook(project, "notebooks/compare_runs.ipynb")
    text = json.dumps(outputs)
    assert "2 finished runs below" in text
    assert len(figures_of(outputs)) == 1
    for seed in (0, 1):
        name = f"digits/heldout-300/image/seed-{seed}/main"
        report = json.loads((project / f"data/08_reporting/{name}/metrics.json").read_text())
        assert f"{report['models']['student']['nll_scaled']:.3f}" in text
        assert name in text
    table = outputs[-1]["data"]["text/plain"]
    assert {"seed", "route.epochs"} <= set(table.split())
    assert "batch_size" not in table
