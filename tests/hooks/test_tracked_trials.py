"""Each trial of a comparison is a child of its run of MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from mlflow_stores import using_database
from mst_distill.hooks.tracked_trials import log_trials


def row(title: str, seed: int, **values: object) -> dict:
    method, _, teacher = title.partition(" <- ")
    key = {"target": "image", "title": title, "method": method, "teacher": teacher, "seed": seed}
    return {**key, "selection": "", "error": "", **values}


TRIALS = pd.DataFrame(
    [
        row("kd <- audio", 0, selection="metric", accuracy=0.5, seconds=2.0),
        row("kd <- audio", 0, selection="ce", accuracy=0.25, seconds=2.0),
        row("kd <- audio", 1, error="ValueError: no teacher"),
    ]
)


def test_each_trial_is_a_child_of_the_active_run(tmp_path: Path) -> None:
    with using_database(tmp_path):
        with mlflow.start_run(experiment_id="0") as parent:
            log_trials(TRIALS, "metric")
        client = MlflowClient()
        children = client.search_runs(
            [parent.info.experiment_id],
            f"tags.mlflow.parentRunId = '{parent.info.run_id}'",
            order_by=["params.seed"],
        )
        assert client.get_run(parent.info.run_id).data.metrics == {}
    assert [of.info.run_name for of in children] == [
        "kd <- audio, image, seed 0",
        "kd <- audio, image, seed 1",
    ]
    assert [of.info.status for of in children] == ["FINISHED", "FAILED"]
    assert children[0].data.metrics == {"accuracy": 0.5, "seconds": 2.0}
    assert children[0].data.params == {
        "target": "image",
        "title": "kd <- audio",
        "method": "kd",
        "teacher": "audio",
        "seed": "0",
    }
    assert children[1].data.metrics == {}
    assert children[1].data.tags["error"] == "ValueError: no teacher"


def test_the_shares_of_a_label_curve_are_named(tmp_path: Path) -> None:
    with using_database(tmp_path), mlflow.start_run(experiment_id="0") as parent:
        log_trials(TRIALS.assign(labelled=0.05).head(1), "metric")
        (child,) = MlflowClient().search_runs(
            [parent.info.experiment_id], "params.labelled = '0.05'"
        )
    assert child.info.run_name == "kd <- audio, image, seed 0, 0.05 of the labels"


def test_without_a_run_nothing_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with using_database(tmp_path):
        log_trials(TRIALS, "metric")
    assert not (tmp_path / "mlflow.db").exists()
