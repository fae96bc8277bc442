"""Where MLflow tracks a run: the address of the user, and a database that was moved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mst_distill.hooks.tracking import move_artifacts
from projects import copy_project, run_session, session_in


def runs_in(database: Path) -> list:
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("mst-distill")
    return client.search_runs([experiment.experiment_id]) if experiment else []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


def ingest(project: Path, **changes: Any) -> None:
    run_session(project, "ingest", limit=300, runtime={"tracking": True}, **changes)


def test_the_address_in_the_environment_takes_precedence(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'server.db'}")
    ingest(project)
    (run,) = runs_in(tmp_path / "server.db")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits/heldout-300/image/seed-0/main"
    assert not (project / "mlflow.db").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no file modes")
def test_a_group_may_write_to_the_database_where_the_umask_permits_it(project: Path) -> None:
    before = os.umask(0o002)
    try:
        with session_in(project, runtime={"tracking": True}) as session:
            session.load_context()
    finally:
        os.umask(before)
    assert (project / "mlflow.db").stat().st_mode & 0o777 == 0o664


def test_a_session_leaves_the_environment_as_it_is(project: Path) -> None:
    before = os.environ.get("MLFLOW_TRACKING_URI")
    with session_in(project, runtime={"tracking": True}) as session:
        session.load_context()
    assert (project / "mlflow.db").is_file()
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


def test_a_project_that_is_moved_takes_its_artifacts_along(project: Path, tmp_path: Path) -> None:
    ingest(project)
    moved = tmp_path / "elsewhere" / "project"
    moved.parent.mkdir()
    shutil.move(project, moved)
    ingest(moved, run="second")
    assert not project.exists()
    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    runs = runs_in(moved / "mlflow.db")
    assert len(runs) == 2
    for run in runs:
        assert run.info.artifact_uri.startswith(str(moved / "mlruns"))
        assert "samples_report" in {file.path for file in client.list_artifacts(run.info.run_id)}


def test_artifacts_in_a_place_of_their_own_stay_there(tmp_path: Path) -> None:
    database, folder = tmp_path / "mlflow.db", tmp_path / "mlruns"
    client = MlflowClient(f"sqlite:///{database}")
    places = [str(tmp_path / "disk" / "mine"), str(folder / "x"), "s3://bucket/mlruns/9"]
    ids = [client.create_experiment(place[-6:], place) for place in places]
    before = [client.get_experiment(each).artifact_location for each in ids]
    move_artifacts(database, folder)
    assert [client.get_experiment(each).artifact_location for each in ids] == before


def test_a_database_that_is_not_next_to_the_folder_stays_as_it_is(tmp_path: Path) -> None:
    """Several projects may share it."""
    for project in ("first", "second"):
        (tmp_path / project / "mlruns" / "1").mkdir(parents=True)
    database = tmp_path / "shared.db"
    client = MlflowClient(f"sqlite:///{database}")
    place = str(tmp_path / "first" / "mlruns" / "1")
    number = client.create_experiment("mst-distill", place)
    assert number == "1"
    move_artifacts(database, tmp_path / "second" / "mlruns")
    assert client.get_experiment(number).artifact_location == place
    move_artifacts(database, tmp_path / "mlruns")  # next to it, but without this experiment
    assert client.get_experiment(number).artifact_location == place
