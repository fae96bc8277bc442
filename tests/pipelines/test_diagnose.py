"""`kedro run --pipeline=diagnose` on the command line, on a finished run of `distill`."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from html_pages import check_is_one_file
from mst_distill.report.run_page import DIAGNOSIS_FIGURES
from projects import FINISHED, ROOT, SHORT, finished_project, kedro, run_session

RUN = "digits/heldout-all/image/seed-0/main"
SOURCES = [
    *("multimodal teacher", "audio teacher"),
    *("multimodal/fusion", "multimodal/hidden", "audio/dense", "audio/hidden"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a finished run and its diagnosis, which is tracked in MLflow."""
    folder = finished_project(tmp_path_factory.mktemp("diagnose") / "project", tmp_path_factory)
    done = kedro(folder, "run", "--pipeline=diagnose", f"--params={SHORT},diagnose.samples=20")
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def report_of(project):
    return json.loads((project / f"data/08_reporting/{RUN}/diagnosis.json").read_text())


def test_the_sentences_of_the_report_are_printed(project):
    report, printed = report_of(project), (project / "printed.txt").read_text()
    assert "path multimodal/fusion epoch 1/2" in printed
    for sentence in report["sentences"]:
        assert sentence in " ".join(printed.split())
    text = " ".join(report["sentences"])
    for words in ("Distilled from one fixed source", "overlap by", "linear CKA", "tau² KL"):
        assert words in text
    assert re.search(
        r"Permuting the (audio|image) among the held-out samples costs the multimodal", text
    )
    assert "A perfect choice among the specialists would gain" in text
    assert list(report["paths"]["sources"]) == SOURCES


def test_every_source_has_a_path_student_and_a_row_for_each_class(project):
    paths = pd.read_csv(project / f"data/08_reporting/{RUN}/paths.csv")
    assert list(dict.fromkeys(paths["source"])) == SOURCES
    assert list(dict.fromkeys(paths["class"])) == ["(all)", *map(str, range(10))]
    students = project / f"data/06_models/{RUN}/path_students"
    found = {str(file.relative_to(students).with_suffix("")) for file in students.rglob("*.json")}
    assert found == set(SOURCES)
    predictions = pd.read_parquet(
        project / f"data/07_model_output/{RUN}/source_predictions.parquet"
    )
    accuracy = predictions.groupby("model")["correct"].mean()
    whole = paths[paths["class"] == "(all)"].set_index("source")
    for source in SOURCES:
        gain = accuracy[f"student of {source}"] - accuracy["baseline"]
        assert whole["points"][source] == pytest.approx(100 * gain, abs=1e-5)


def test_the_predictions_and_the_disagreement_agree_with_those_of_evaluate(project):
    folder = project / f"data/07_model_output/{RUN}"
    diagnosed, evaluated = (
        pd.read_parquet(folder / f"{name}.parquet").set_index(["model", "id"])["nll"]
        for name in ("source_predictions", "predictions")
    )
    both = diagnosed.index.intersection(evaluated.index)
    assert set(both.get_level_values("model")) == {"student", "baseline", *SOURCES}
    np.testing.assert_allclose(diagnosed[both], evaluated[both], rtol=1e-6)
    folder = project / f"data/08_reporting/{RUN}"
    diagnosed, evaluated = (
        pd.read_csv(folder / f"{name}disagreement.csv") for name in ("source_", "")
    )
    pd.testing.assert_frame_equal(diagnosed, evaluated)


def test_drift_is_computed_for_the_configured_number_of_samples(project):
    drift = pd.read_csv(project / f"data/08_reporting/{RUN}/drift.csv")
    assert (drift.groupby("source")["id"].nunique() == 20).all()
    assert set(drift["source"]) == {name for name in SOURCES if name.startswith("multimodal")}


def test_reliance_is_computed_on_all_test_samples(project):
    reliance = pd.read_csv(project / f"data/08_reporting/{RUN}/reliance.csv")
    multimodal = [name for name in SOURCES if name.startswith("multimodal")]
    assert reliance[["source", "modality"]].to_numpy().tolist() == [
        [source, name] for source in multimodal for name in ("image", "audio")
    ]
    predictions = pd.read_parquet(
        project / f"data/07_model_output/{RUN}/source_predictions.parquet"
    )
    whole = predictions.groupby("model")[["correct", "nll"]].mean().loc[reliance["source"]]
    assert reliance["accuracy"].to_numpy() == pytest.approx(whole["correct"].to_numpy(), abs=1e-6)
    assert reliance["nll"].to_numpy() == pytest.approx(whole["nll"].to_numpy(), abs=1e-5)
    reported = report_of(project)["reliance"]["multimodal teacher"]
    assert reported["audio"]["points"] == pytest.approx(reliance["points"][1], abs=1e-5)


def test_the_reported_shares_are_those_of_the_largest_routing_probability(project):
    probabilities = pd.read_parquet(
        project / f"data/07_model_output/{RUN}/routing_probabilities.parquet"
    )
    np.testing.assert_allclose(probabilities.drop(columns="id").sum(axis=1), 1, rtol=1e-5)
    shares = probabilities.drop(columns="id").idxmax(axis=1).value_counts(normalize=True)
    reported = report_of(project)["routing"]["shares"]
    assert {name: share for name, share in reported.items() if share} == pytest.approx(dict(shares))


@pytest.mark.parametrize(
    ("entry", "column", "names"),
    [
        ("drift", "id", ["0024", "None", "7"]),
        ("paths", "class", ["01", "NA", "2"]),
        ("reliance", "modality", ["01", "None", "2"]),
    ],
)
def test_names_that_look_like_numbers_or_missing_values_are_read_as_text(
    entry, column, names, tmp_path
):
    settings = yaml.safe_load((ROOT / "conf/base/catalog.yml").read_text())[entry]
    pd.DataFrame({column: names}).to_csv(tmp_path / "table.csv", index=False)
    table = pd.read_csv(tmp_path / "table.csv", **settings["load_args"])
    assert table[column].tolist() == names


def test_figures_are_drawn_and_no_checkpoint_remains(project):
    for name in ("paths", "drift", "headroom"):
        figure = project / f"data/08_reporting/{RUN}/{name}_figure.png"
        assert figure.stat().st_size > 10_000
    assert not list((project / "data").rglob("*.pt"))


def test_the_report_is_written_again_with_the_diagnosis(project):
    folder = project / f"data/08_reporting/{RUN}"
    page = check_is_one_file((folder / "diagnosed_report.html").read_text())
    for sentence in report_of(project)["sentences"]:
        assert sentence in page.text
    captions = [image["alt"] for image in page.tags("img")]
    assert captions[-3:] == list(DIAGNOSIS_FIGURES.values())
    assert report_of(project)["sentences"][0] not in (folder / "report.html").read_text()
    printed = (project / "printed.txt").read_text()
    path = f"data/08_reporting/{RUN}/diagnosed_report.html"
    assert printed.split()[-2:] == ["Report:", path]


def test_numbers_and_figures_are_logged_in_the_mlflow_run_that_they_are_about(project):
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    value = report_of(project)["headroom"]["specialists"]["accuracy"]["headroom"]["value"]
    assert run.data.metrics["headroom.specialists.accuracy.headroom.value"] == pytest.approx(value)
    assert run.info.status == "FINISHED"
    assert run.data.params["diagnose.samples"] == "20"
    assert run.data.params["teachers.epochs"] == "1"
    assert run.data.tags["verdict"].startswith("Distillation")
    assert "distill" in run.data.tags["kedro_command"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    figures = {f"{name}_figure" for name in ("paths", "drift", "headroom")}
    assert {"metrics", "student", "paths", "reliance", "drift", *figures} <= artifacts


@pytest.mark.parametrize(
    ("node", "change", "message"),
    [
        ("train_paths", {"teachers": {"epochs": 2}}, "'members' .*teachers.epochs was 1 and is 2"),
        ("compute_drift", {"masks": {"heads": 2}}, "'masks' .*masks.heads was 3 and is 2"),
        ("compute_reliance", {"masks": {"heads": 2}}, "'masks' .*masks.heads was 3 and is 2"),
        (
            "predict_sources",
            {"route": {"kd_weight": 0.5}},
            "'students' .*kd_weight was 1.0 and is 0.5",
        ),
        ("draw_drift", {"route": {"epochs": 3}}, "'students' .*route.epochs was 2 and is 3"),
    ],
)
def test_a_run_with_other_parameters_is_an_error(project, node, change, message):
    blocks = {name: {**FINISHED[name], **change.get(name, {})} for name in FINISHED}
    with pytest.raises(ValueError, match=rf"{message}.* Run again with --from-nodes=\w+.train_"):
        run_session(project, "diagnose", [node], **blocks)


@pytest.mark.long
def test_paths_of_another_run_are_an_error(project, tmp_path):
    other = shutil.copytree(project, tmp_path / "project")
    changed = {**FINISHED, "route": {"epochs": 1}}
    for stage in ("route", "evaluate"):
        run_session(other, stage, **changed)
    with pytest.raises(
        ValueError, match=r"'path_students' is out of .*route.epochs was 2 and is 1"
    ):
        run_session(other, "diagnose", ["predict_sources"], **changed)
    run_session(other, "masks", **{**changed, "masks": {"epochs": 2}})
    with pytest.raises(
        ValueError, match=r"'specialist_logits' is out of .*input 'masks' has changed"
    ):
        run_session(other, "diagnose", ["train_paths"], **{**changed, "masks": {"epochs": 2}})
