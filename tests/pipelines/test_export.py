"""`kedro run --pipeline=export` after a finished run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from exports import describe_student
from mst_distill.artifacts.bundle import load_bundle
from projects import copy_project, run_session, session_in, stages

RUN = "digits/heldout-300/audio/seed-0/main"
SETTINGS = {"target": "audio", "limit": 300, **stages(epochs=1)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a finished run, and its student exported."""
    folder = copy_project(tmp_path_factory.mktemp("export") / "project")
    for stage in ("ingest", "teachers", "masks", "route"):
        run_session(folder, stage, **SETTINGS)
    describe_student(folder / f"data/06_models/{RUN}")
    run_session(folder, "export", **SETTINGS)
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
