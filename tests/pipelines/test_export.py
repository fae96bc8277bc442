"""`kedro run --pipeline=export` after a finished run."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from mlflow_stores import using_database
from mst_distill.artifacts.bundle import load_bundle
from mst_distill.artifacts.student_input import load_student_input
from projects import copy_project, run_session, session_in, stages
from raw_sets import write_tone

RUN = "digits/heldout-300/audio/seed-0/main"
SETTINGS = {"target": "audio", "limit": 300, **stages(epochs=1)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a finished run, and its student exported; both are tracked."""
    folder = copy_project(tmp_path_factory.mktemp("export") / "project")
    run_session(folder, "distill", runtime={"tracking": True}, **SETTINGS)
    run_session(folder, "export", runtime={"tracking": True}, **SETTINGS)
    return folder


def test_the_export_computes_what_the_student_of_the_run_computes(project: Path) -> None:
    student = load_bundle(project / f"data/06_models/{RUN}/student.json").net
    with session_in(project, **SETTINGS) as session:
        catalog = session.load_context().catalog
        exported, samples = catalog.load("exported"), catalog.load("samples")
    tensors = np.array(samples.modalities["audio"][:20])
    with torch.no_grad():
        expected = student(torch.from_numpy(tensors)).numpy()
    assert exported.logits(tensors) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_export_has_the_origin_of_the_student(project: Path) -> None:
    exported = project / f"data/07_model_output/{RUN}/exported"
    card = json.loads((exported / "student.json").read_text())
    assert card["provenance"]["made_by"] == "route.train_student"
    sidecar = json.loads(exported.with_name("exported.origin.json").read_text())
    assert sidecar["origin"]["made_by"] == "export.export_student"
    assert "student" in sidecar["origin"]["inputs"]
    assert "exported/student.onnx" in sidecar["files"]
    code = sidecar["origin"]["code"]
    assert {f"mst_distill.deploy.{name}" for name in ("export", "check", "predict")} <= set(code)


def test_an_export_that_is_damaged_is_found(project: Path) -> None:
    onnx = project / f"data/07_model_output/{RUN}/exported/student.onnx"
    content = onnx.read_bytes()
    onnx.write_bytes(content[:-1])
    try:
        with session_in(project, **SETTINGS) as session:
            catalog = session.load_context().catalog
            with pytest.raises(ValueError, match=r"student\.onnx is damaged.*--pipeline=export"):
                catalog.load("exported")
    finally:
        onnx.write_bytes(content)


def test_the_run_says_how_near_the_export_comes(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mst_distill"):
        logging.getLogger("mst_distill").addHandler(caplog.handler)
        try:
            run_session(project, "export", **SETTINGS)
        finally:
            logging.getLogger("mst_distill").removeHandler(caplog.handler)
    (message,) = {each.message for each in caplog.records if "ONNX" in each.message}
    assert f"{RUN}/exported has the student" in message
    assert "0.00% of the classes are others" in message


def logged_models(project: Path) -> list:
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill")
    return client.search_logged_models([experiment.experiment_id])


def test_the_student_is_a_model_of_the_mlflow_run_that_it_is_of(project: Path) -> None:
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["verdict"]
    (model,) = logged_models(project)
    assert model.source_run_id == run.info.run_id
    report = project / f"data/08_reporting/{RUN}/metrics.json"
    student = json.loads(report.read_text())["models"]["student"]
    linked = {metric.key: metric.value for metric in model.metrics}
    for key in ("accuracy", "nll", "calibration_error"):
        assert linked[key] == pytest.approx(student[key])


def test_the_logged_model_reads_a_recording_as_the_student_does(
    project: Path, tmp_path: Path
) -> None:
    (model,) = logged_models(project)
    with using_database(project):
        loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    wav = write_tone(tmp_path / "tone.wav", 440, 0.5, 8000)
    found = loaded.predict(pd.DataFrame({"audio": [wav.read_bytes(), b"RIFF"]}))
    description = load_student_input(project / f"data/06_models/{RUN}/student_input.json")
    tensors = description.reader.open().read([str(wav)])
    net = load_bundle(project / f"data/06_models/{RUN}/student.json").net
    with torch.no_grad():
        logits = net(torch.from_numpy(tensors)).double()
    expected = (logits / description.temperature).softmax(dim=1).numpy()[0]
    assert found.filter(like="p:").iloc[0].to_numpy(float) == pytest.approx(expected, abs=1e-4)
    assert found["label"][0] == description.classes[expected.argmax()]
    assert found["error"][0] == ""
    assert found["error"][1].startswith("audio")
    assert found["label"][1] == ""


def test_an_untracked_export_is_no_model_of_mlflow(project: Path) -> None:
    before = [model.model_id for model in logged_models(project)]
    run_session(project, "export", **SETTINGS)
    assert [model.model_id for model in logged_models(project)] == before


def test_a_project_that_is_moved_takes_its_models_along(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    run_session(moved, "ingest", runtime={"tracking": True}, **SETTINGS)
    (model,) = logged_models(moved)
    folder = Path(model.artifact_location)
    assert folder.is_relative_to(moved)
    assert (folder / "MLmodel").is_file()
