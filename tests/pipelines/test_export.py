"""`kedro run --pipeline=export` after a finished run."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

import mst_distill.deploy.quantise
import toy_nets
from exports import make_export, predict
from mlflow_stores import using_database
from mst_distill.artifacts.bundle import load_bundle
from mst_distill.artifacts.student_input import load_student_input
from mst_distill.data.samples import Samples
from mst_distill.datasets.exported_student import ExportedStudentDataset
from mst_distill.deploy.export import Export
from mst_distill.deploy.predict import Student
from mst_distill.deploy.served import ServedStudent
from mst_distill.parameters import Evaluate, ExportSettings
from mst_distill.pipelines.export.nodes import export_student
from projects import copy_project, run_session, session_in, stages
from raw_sets import write_tone
from toy_runs import make_plan
from toys import make_samples

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


# int8


def logged(project: Path, caplog: pytest.LogCaptureFixture, **changes: Any) -> list[str]:
    """Export, and return the messages of the log."""
    with caplog.at_level(logging.INFO, "mst_distill"):
        logging.getLogger("mst_distill").addHandler(caplog.handler)
        try:
            run_session(project, "export", **SETTINGS, **changes)
        finally:
            logging.getLogger("mst_distill").removeHandler(caplog.handler)
    return list(dict.fromkeys(record.message for record in caplog.records))


@pytest.fixture(scope="module")
def with_int8(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with its student exported in int8 as well."""
    folder = tmp_path_factory.mktemp("int8") / "project"
    shutil.copytree(project, folder)
    run_session(folder, "export", export={"int8": True}, **SETTINGS)
    return folder


def accuracy_alone(folder: Path, samples: Samples, rows: np.ndarray, file: Path, *options: str):
    """The accuracy of ``predict.py`` in a process with NumPy and ONNX Runtime alone."""
    np.save(file, samples.modalities["audio"][rows])
    done = predict(folder, *options, file)
    assert done.returncode == 0, done.stderr
    labels = [line.split(",")[2] for line in done.stdout.splitlines()[1:]]
    return np.mean(
        [
            label == samples.classes[samples.labels[row]]
            for label, row in zip(labels, rows, strict=True)
        ]
    )


def test_int8_is_as_accurate_alone_as_the_report_says(with_int8: Path, tmp_path: Path) -> None:
    exported = with_int8 / f"data/07_model_output/{RUN}/exported"
    report = json.loads((exported / "int8.json").read_text())
    with session_in(with_int8, **SETTINGS) as session:
        catalog = session.load_context().catalog
        samples, splits = catalog.load("samples"), catalog.load("splits")
    rows = np.flatnonzero(splits["split"] == "test")
    assert report["samples"] == len(rows)
    for model, options in {"int8": ["--int8"], "float32": []}.items():
        found = accuracy_alone(exported, samples, rows, tmp_path / "test.npy", *options)
        assert found == pytest.approx(report[model]["accuracy"])
        file = exported / ("student_int8.onnx" if options else "student.onnx")
        assert report[model]["bytes"] == file.stat().st_size
        assert set(report[model]["milliseconds"]) == {"1", "32"}
    assert report["int8"]["bytes"] < report["float32"]["bytes"] / 2
    input_ = json.loads((exported / "student_input.json").read_text())
    assert report["temperature"] == input_["temperature"]
    test = predict(exported, "--int8", tmp_path / "test.npy").stdout
    assert test != predict(exported, tmp_path / "test.npy").stdout


def test_an_export_with_int8_is_the_export_without_it_and_two_more_files(
    project: Path, with_int8: Path
) -> None:
    without, exported = (
        root / f"data/07_model_output/{RUN}/exported" for root in (project, with_int8)
    )
    files = {file.name for file in without.iterdir()}
    assert {file.name for file in exported.iterdir()} - files == {"student_int8.onnx", "int8.json"}
    for name in files - {"README.md", "student.pt2"}:
        assert (exported / name).read_bytes() == (without / name).read_bytes(), name
    page, before = ((folder / "README.md").read_text() for folder in (exported, without))
    assert "int8" not in before
    assert "## int8" in page
    report = json.loads((exported / "int8.json").read_text())
    assert report["summary"] in page
    assert (
        f"| accuracy | {report['float32']['accuracy']:.2%} | {report['int8']['accuracy']:.2%} |"
        in page
    )
    sidecar = json.loads(exported.with_name("exported.origin.json").read_text())
    assert "exported/student_int8.onnx" in sidecar["files"]
    assert sidecar["origin"]["parameters"]["export"] == {"int8": True, "tolerated_loss": 0.01}


def test_the_served_student_stays_in_float32(with_int8: Path) -> None:
    exported = with_int8 / f"data/07_model_output/{RUN}/exported"
    tensors = np.random.default_rng(0).standard_normal((5, 13, 32)).astype(np.float32)
    served, files = ServedStudent(exported), (Student(exported), Student(exported, int8=True))
    found = served._student.probabilities(tensors)
    assert np.array_equal(found, files[0].probabilities(tensors))
    assert not np.array_equal(found, files[1].probabilities(tensors))


def test_the_log_says_what_int8_costs_and_gains(
    with_int8: Path, caplog: pytest.LogCaptureFixture
) -> None:
    messages = logged(with_int8, caplog, export={"int8": True})
    report = json.loads((with_int8 / f"data/07_model_output/{RUN}/exported/int8.json").read_text())
    assert report["summary"] in messages
    assert f"{report['int8']['bytes']:,} bytes instead of the" in report["summary"]


def test_without_int8_predict_says_how_to_get_it(project: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros((13, 32), np.float32))
    exported = project / f"data/07_model_output/{RUN}/exported"
    done = predict(exported, "--int8", tmp_path / "one.npy")
    assert done.returncode == 1
    assert "student_int8.onnx does not exist; it is written with export.int8=true" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_tolerated_leaves_the_earlier_export(
    with_int8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges from samples that are far too small clip everything, so that int8 loses much."""
    own = mst_distill.deploy.quantise.quantise
    monkeypatch.setattr(
        mst_distill.deploy.quantise,
        "quantise",
        lambda file, samples, target: own(file, samples / 1e4, target),
    )
    folder = with_int8 / f"data/07_model_output/{RUN}"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=r"export\.tolerated_loss allows.* 1 points are") as raised:
        run_session(with_int8, "export", export={"int8": True, "tolerated_loss": 0.01}, **SETTINGS)
    report = json.loads((folder / "exported" / "int8.json").read_text())
    assert f"{report['float32']['accuracy']:.2%}. The loss is +" in str(raised.value)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def toy() -> tuple[Export, Samples, pd.DataFrame]:
    """A student, samples of three classes that it classifies without error, and splits."""
    torch.manual_seed(0)
    net: Any = toy_nets.Image(3)
    samples, splits = make_samples(200)
    images, labels = torch.from_numpy(samples.modalities["image"]), torch.from_numpy(samples.labels)
    adam = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        adam.zero_grad()
        torch.nn.functional.cross_entropy(net(images), labels).backward()
        adam.step()
    export = make_export(net.eval(), {"classes": 3})
    with torch.no_grad():
        labels = net(images).argmax(dim=1).numpy()
    assert len(set(labels)) == 3
    index = samples.index.assign(label=labels)
    return export, replace(samples, index=index, labels=labels), splits.assign(label=labels)


def exported_toy(
    changed: Callable[[np.ndarray, pd.Series], None] = lambda array, split: None,
    tolerated_loss: float = 1.0,
) -> Export:
    """The export of `toy` with int8, after a change of its samples."""
    export, samples, splits = toy()
    array = samples.modalities["image"].copy()
    changed(array, splits["split"])
    settings = ExportSettings(int8=True, tolerated_loss=tolerated_loss)
    plan = make_plan(export=settings, evaluate=Evaluate(resamples=50))
    samples = replace(samples, modalities={**samples.modalities, "image": array})
    return export_student(export.student, export.student_input, "", samples, splits, plan)


def test_ranges_depend_on_training_samples_alone() -> None:
    def without_the_others(array: np.ndarray, split: pd.Series) -> None:
        array[split == "valid"] = np.nan
        array[split == "test"] *= -100

    def larger(array: np.ndarray, split: pd.Series) -> None:
        array[split == "train"] *= 2

    as_is = exported_toy().int8
    assert as_is is not None
    assert as_is.report["calibration_samples"] == 120
    assert exported_toy(without_the_others).int8.onnx == as_is.onnx
    assert exported_toy(larger).int8.onnx != as_is.onnx


def test_without_int8_no_sample_is_read() -> None:
    export, _, _ = toy()
    nothing: Any = None
    found = export_student(
        export.student, export.student_input, "card", nothing, nothing, make_plan()
    )
    assert found == Export(export.student, export.student_input, "card")


def test_test_samples_out_of_range_are_a_loss_and_nothing_is_written(tmp_path: Path) -> None:
    def far(array: np.ndarray, split: pd.Series) -> None:
        array[split == "train"] /= 1e4

    with pytest.raises(
        ValueError, match=r"that of student\.onnx 100\.00%.* 1 points are tolerated"
    ):
        exported_toy(far, tolerated_loss=0.01)
    dataset = ExportedStudentDataset(path=str(tmp_path / "exported"))
    dataset.save(exported_toy(far))
    report = json.loads((tmp_path / "exported" / "int8.json").read_text())
    assert report["int8"]["accuracy"] < 0.9
    assert report["tolerated_loss"] == 1


def test_a_student_of_pixels_is_exported_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = toy_nets.Dense(3).eval()
    export = make_export(net, {"classes": 3}, "depth", (1, 8, 8), dense=True)
    samples, splits = make_samples(60, {"depth": (1, 8, 8)}, dense=(8, 8), ignored=0)
    settings = ExportSettings(int8=True, tolerated_loss=1)
    plan = make_plan("dense labels", export=settings, evaluate=Evaluate(resamples=50))
    found = export_student(export.student, export.student_input, "", samples, splits, plan)
    ExportedStudentDataset(path=str(tmp_path / "exported")).save(found)
    test = np.flatnonzero(splits["split"] == "test")
    student = Student(tmp_path / "exported", int8=True)
    labels = samples.labels[test]
    correct = student.logits(samples.modalities["depth"][test]).argmax(axis=1) == labels
    report = json.loads((tmp_path / "exported" / "int8.json").read_text())
    assert report["int8"]["accuracy"] == pytest.approx(correct[labels != 0].mean())
    assert set(report["int8"]["milliseconds"]) == {"1"}
    assert "| mean intersection over union |" in (tmp_path / "exported" / "README.md").read_text()
