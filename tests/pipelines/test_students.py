"""`kedro run --pipeline=compare` with students of several sizes, and the budget of a student."""

from __future__ import annotations

import pandas as pd
import pytest

from html_pages import check_is_one_file
from projects import copy_project, run_session, stages

FOLDER = "digits/heldout-200/compare/main"
SMALL = {
    "type": "mst_distill.nets.simple.MapNet",
    "arguments": {"hidden": 8},
    "modality": "image",
}
SHORT = {
    "limit": 200,
    "members": {"students": {"small": SMALL}},
    **stages({"factor": 10}, epochs=1),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_project(tmp_path_factory.mktemp("students") / "project")
    compare = {"seeds": 3, "only": "baseline kd"}
    run_session(folder, "compare", compare=compare, **SHORT)
    return folder


def test_costs_and_accuracies_of_all_students_of_the_modality_are_tabulated(project):
    sizes = pd.read_csv(project / f"data/08_reporting/{FOLDER}/student_sizes.csv")
    assert list(dict.fromkeys(sizes["student"])) == ["image", "small"]
    assert sizes["seeds"].eq(3).all()
    small = sizes[sizes["student"] == "small"].iloc[0]
    image = sizes[sizes["student"] == "image"].iloc[0]
    assert small["parameters"] != image["parameters"]
    trials = pd.read_parquet(project / f"data/07_model_output/{FOLDER}/trials.parquet")
    assert set(trials["target"]) == {"image", "audio", "small"}
    of_small = trials[(trials["target"] == "small") & (trials["selection"] == "accuracy")]
    mean = of_small.loc[of_small["title"] == "baseline", "accuracy"].mean()
    assert small["accuracy"] == pytest.approx(mean)


def test_the_pages_have_the_table_and_the_picture(project):
    folder = project / f"data/08_reporting/{FOLDER}"
    page = (folder / "methods_page.md").read_text()
    assert "## Students and what they cost" in page
    assert "Of the students of image, " in page
    assert "## The small student" in page
    html = (folder / "methods_web_page.html").read_text()
    check_is_one_file(html)
    assert "Students and what they cost" in html
    assert (folder / "students_figure.png").stat().st_size > 10_000


def test_a_comparison_without_other_sizes_says_nothing_of_them(project):
    parameters = {key: value for key, value in SHORT.items() if key != "members"}
    compare = {"seeds": 1, "targets": "image", "only": "baseline"}
    run_session(project, "compare", run="plain", compare=compare, **parameters)
    folder = project / "data/08_reporting/digits/heldout-200/compare/plain"
    assert "what they cost" not in (folder / "methods_page.md").read_text()
    assert not len(pd.read_csv(folder / "student_costs.csv"))


@pytest.mark.parametrize("pipeline", ["distill", "compare", "label_curve"])
def test_a_student_above_the_budget_is_an_error_before_anything_is_trained(
    project, tmp_path, pipeline
):
    folder = copy_project(tmp_path / "project")
    with pytest.raises(ValueError, match=r"needs .* megabytes as ONNX, and budget.megabytes is"):
        run_session(folder, pipeline, budget={"megabytes": 0.001}, **SHORT)
    assert not list((folder / "data/06_models").rglob("*.safetensors"))


def test_a_budget_that_is_kept_changes_no_result(project):
    parameters = {key: value for key, value in SHORT.items() if key != "members"}
    run_session(project, "ingest", **parameters)
    run_session(project, "teachers", **parameters)
    members = project / "data/06_models/digits/heldout-200/image/seed-0/main/members.origin.json"
    before = members.read_text()
    run_session(project, "teachers", budget={"megabytes": 100}, **parameters)
    assert members.read_text() == before
