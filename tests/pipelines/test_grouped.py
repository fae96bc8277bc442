"""`protocol=grouped`: a run, a comparison of each fold, and all folds together."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from projects import copy_project, run_session, stages

SHORT = {
    "limit": 300,
    **stages({"factor": 10}, epochs=1),
    "evaluate": {"resamples": 50, "by": "label"},
    "diagnose": {"samples": 16},
    "compare": {"only": "baseline kd_mean", "seeds": 1, "targets": "audio"},
    "runtime": {"tracking": False},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run on a fold."""
    folder = copy_project(tmp_path_factory.mktemp("grouped") / "project")
    run_session(folder, "distill", protocol="grouped", fold="2/5", **SHORT)
    return folder


def test_a_run_on_a_fold_has_paths_and_a_report_of_its_own(project: Path) -> None:
    reports = project / "data/08_reporting/digits/grouped-2of5-300/image/seed-0/main"
    page = (reports / "report.html").read_text()
    assert "2/5" in page
    assert "Accuracy in percent by label" in page
    metrics = json.loads((reports / "metrics.json").read_text())
    assert set(metrics["by"]["label"]) == set("0123456789")
    splits = pd.read_parquet(
        project / "data/05_model_input/digits/grouped-2of5-300/seed-0/splits.parquet"
    )
    assert splits["split"].value_counts(normalize=True)["test"] == pytest.approx(0.2, abs=0.03)


def test_a_run_on_a_fold_is_diagnosed(project: Path) -> None:
    run_session(project, "diagnose", protocol="grouped", fold="2/5", **SHORT)


def test_the_folds_of_a_comparison_are_one_setting(project: Path) -> None:
    for fold in ("1/5", "2/5", "3/5"):
        run_session(project, "compare", protocol="grouped", fold=fold, **SHORT)
    run_session(project, "aggregate", **SHORT)
    reports = project / "data/08_reporting/aggregate/main"
    gains = pd.read_csv(reports / "aggregate_gains.csv")
    of_folds = gains[gains["setting"] == "digits, grouped, audio"]
    assert set(of_folds["method"]) == {"kd_mean"}
    assert set(of_folds["pairs"]) == {3}
    page = (reports / "aggregate_page.md").read_text()
    assert "In digits, grouped, audio (1of5, 2of5, 3of5), the unit is a fold" in page
