"""What was made on other terms is never taken for what would be made now."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
import torch

from mst_distill.bundle import load_bundle, save_bundle
from projects import copy_project, run_session

SHORT = {
    "teachers": {"epochs": 1},
    "masks": {"epochs": 1, "factor": 10},
    "route": {"epochs": 1},
}
RUN = "digits/heldout-all/image/seed-0/main"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the project in which a run has been made."""
    folder = copy_project(tmp_path_factory.mktemp("stale") / "project")
    run_session(folder, "distill", **SHORT)
    return folder


@pytest.fixture
def project(made, tmp_path):
    """A copy of the run, to be spoilt."""
    return shutil.copytree(made, tmp_path / "project")


def changed(**blocks):
    return {name: {**SHORT[name], **blocks.get(name, {})} for name in SHORT}


def test_a_stage_that_fits_is_run_from_what_is_there(project):
    for stage in ("masks", "route", "evaluate"):
        run_session(project, stage, **SHORT)


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        ("masks", {"teachers": {"epochs": 2}}, "'teachers' .*teachers.epochs was 1 and is 2"),
        ("route", {"teachers": {"epochs": 2}}, "'teachers' .*teachers.epochs was 1 and is 2"),
        ("route", {"masks": {"factor": 8}}, "'masks' .*masks.factor was 10 and is 8"),
        ("evaluate", {"masks": {"heads": 2}}, "'masks' .*masks.heads was 3 and is 2"),
        ("evaluate", {"route": {"kd_weight": 0.5}}, "'route' .*route.kd_weight was 1.0 and is 0.5"),
    ],
)
def test_other_parameters_are_named(project, stage, change, message):
    with pytest.raises(ValueError, match=f"of the stage {message}.*Run again from this stage"):
        run_session(project, stage, **changed(**change))


def test_other_samples_are_refused(project):
    run_session(project, "ingest", benchmark={"arguments": {"kept_energy": 0.4}}, **SHORT)
    with pytest.raises(ValueError, match=r"'teachers' was made on .*: the samples are others"):
        run_session(project, "masks", **SHORT)


def test_masks_of_another_teacher_are_refused(project):
    path = project / f"data/06_models/{RUN}/members/multimodal.json"
    bundle = load_bundle(path)
    with torch.no_grad():
        next(bundle.net.parameters()).add_(1)
    save_bundle(dataclasses.replace(bundle), path)
    with pytest.raises(ValueError, match=r"'masks' was .*: teachers/multimodal was made anew"):
        run_session(project, "route", **SHORT)


def test_logits_of_other_specialists_are_refused(project):
    run_session(project, "masks", **changed(masks={"factor": 8}))
    with pytest.raises(ValueError, match="specialist_logits are of other specialists"):
        run_session(project, "route", ["train_student"], **changed(masks={"factor": 8}))
