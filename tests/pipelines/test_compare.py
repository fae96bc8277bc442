"""`kedro run --pipeline=compare` on the command line, and `aggregate` after it."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from mlflow import MlflowClient

from html_pages import check_is_one_file
from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import plain_parameters
from mst_distill.pipelines.aggregate.nodes import _differences
from mst_distill.pipelines.compare.nodes import train_methods
from projects import copy_project, kedro, run_session, stages
from toy_runs import make_plan, vary

SHORT = (
    "compare.seeds=2,compare.targets=audio,teachers.epochs=1,masks.epochs=1,route.epochs=1,"
    "masks.factor=10"
)
THREE = {
    "limit": 200,
    "compare": {"seeds": 3, "targets": "audio"},
    **stages({"factor": 10}, epochs=1),
}
FOLDER = "digits/heldout-200/compare/main"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a tracked comparison of all methods."""
    folder = copy_project(tmp_path_factory.mktemp("compare") / "project")
    kedro(folder, "run", "--pipeline=compare", f"--params=limit=200,{SHORT}")
    return folder


def test_every_method_is_in_the_report(project):
    trials = pd.read_parquet(project / f"data/07_model_output/{FOLDER}/trials.parquet")
    assert trials.groupby("title")["seed"].nunique().eq(2).all()
    assert trials["title"].nunique() == 30
    assert (trials["error"] == "").all()
    page = (project / f"data/08_reporting/{FOLDER}/methods_page.md").read_text()
    assert "# 30 combinations of method and teacher, 2 seeds" in page
    assert "### Against `baseline`" in page
    assert "cannot be determined from 2 seeds: intervals and tests need at least 3" in page
    # Each criterion compares 29 with the baseline, 26 with the best of three controls, all 30 with
    # the best other one.
    assert page.count("no interval: 2 seeds") == 3 * (29 + 26 + 30)
    differences = pd.read_csv(project / f"data/08_reporting/{FOLDER}/methods_differences.csv")
    assert differences[["low", "high", "p", "p_corrected"]].isna().all(axis=None)
    report = json.loads((project / f"data/08_reporting/{FOLDER}/methods_report.json").read_text())
    assert set(report["accuracy"]["audio"]) == set(trials["title"])
    assert (project / f"data/08_reporting/{FOLDER}/methods_figure.png").stat().st_size > 10_000


def test_settings_are_chosen_on_seeds_that_are_not_reported(project):
    chosen = {
        "limit": 200,
        "run": "tuned",
        "compare": {
            **THREE["compare"],
            "seeds": 1,
            "only": "baseline label_smoothing mst",
            "tuning_seeds": 1,
        },
        **stages({"factor": 10}, epochs=1),
    }
    run_session(project, "compare", **chosen)
    folder = project / "data/08_reporting/digits/heldout-200/compare/tuned"
    table = pd.read_csv(folder / "methods_settings.csv")
    assert table.groupby("method")["seeds"].agg(list).to_dict() == {
        "baseline": [0],
        "label_smoothing": [1, 1, 1, 1],
        "mst": [1, 1, 1, 1],
    }
    assert table.groupby("method")["chosen"].sum().tolist() == [1, 1, 1]
    for page in ("methods_page.md", "methods_web_page.html"):
        text = (folder / page).read_text()
        assert "Settings, chosen by validation" in text
        assert "chose one of up to 4 settings by validation, on 1 other seed" in text


def test_the_report_in_a_browser_is_one_file_with_all_methods(project):
    reports = project / f"data/08_reporting/{FOLDER}"
    page = check_is_one_file((reports / "methods_web_page.html").read_text())
    report = json.loads((reports / "methods_report.json").read_text())
    assert page.text.startswith(report["heading"])
    for title in report["accuracy"]["audio"]:
        assert page.text.count(title) >= 4  # means, other criteria, two comparators
    assert len(page.tags("img")) == 1


def test_the_report_is_logged_to_mlflow(project):
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (run,) = (run for run in runs if run not in children)
    trials = pd.read_parquet(project / f"data/07_model_output/{FOLDER}/trials.parquet")
    assert len(children) == len(trials.groupby(["target", "title", "seed"]))
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {run.info.run_id}
    assert run.info.run_name == FOLDER
    assert run.data.params["compare.budget"] == "equal"
    assert "accuracy.audio.baseline" in run.data.metrics


def test_with_one_seed_more_only_its_trials_are_trained(project):
    log = project / f"data/06_models/{FOLDER}/trial_log"
    before = {path: path.stat().st_mtime_ns for path in log.rglob("*.json")}
    run_session(project, "compare", **THREE)
    after = {path: path.stat().st_mtime_ns for path in log.rglob("*.json")}
    assert {path: after[path] for path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"seed-2"}


def test_comparisons_on_all_benchmarks_are_aggregated(project):
    run_session(project, "compare", **THREE)
    outputs = project / "data/07_model_output"
    other = outputs / FOLDER.replace("digits", "another")
    shutil.copytree(outputs / FOLDER, other)
    run_session(project, "aggregate")
    shutil.rmtree(other)
    reports = project / "data/08_reporting/aggregate/main"
    gains = pd.read_csv(reports / "aggregate_gains.csv")
    assert gains["setting"].unique().tolist() == [
        *("another, audio", "digits, audio", "all settings", "settings as the unit")
    ]
    assert gains["method"].nunique() == 18
    assert gains["selection"].unique().tolist() == ["accuracy", "ce", "last"]
    assert (reports / "aggregate_page.md").read_text().startswith("# 2 settings, 3 seeds")
    assert (reports / "aggregate_figure.png").stat().st_size > 10_000


def test_a_comparison_with_another_recipe_is_not_aggregated(project):
    with pytest.raises(ValueError, match=r"on digits\S* is out of date: training\.optimizer"):
        run_session(project, "aggregate", training="strong")


def test_a_comparison_with_other_methods_is_not_aggregated(project):
    compare = {"methods": {"kd": {"type": "mst_distill.compare.methods.dml.DML"}}}
    with pytest.raises(
        ValueError, match=r"comparison on digits\S* is out of .*methods\.kd\.type was"
    ):
        run_session(project, "aggregate", compare=compare)


def test_a_comparison_with_other_code_of_the_metric_is_not_aggregated():
    metric = "test_metric.share_of_confident"
    plan = vary(make_plan(), evaluate={"metric": metric})
    old = plain_parameters({name: getattr(plan, name) for name in ("compare", "training")})
    old |= {"evaluate": {"metric": metric}}
    code = code_of(train_methods, metric)
    assert _differences(old, code, plan) == []
    (found,) = _differences(old, {**code, "test_metric": "other"}, plan)
    assert found == "the code has changed (test_metric)"


def test_an_unknown_comparison_is_named_with_the_available_ones(project):
    with pytest.raises(
        ValueError, match=r"unknown run 'mian'; .* main, tuned; did you mean 'main'"
    ):
        run_session(project, "aggregate", run="mian")
