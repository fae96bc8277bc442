"""`kedro run` on the command line: whole, by stages, for both targets, with and without MLflow."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from html_pages import check_is_one_file
from mst_distill.artifacts.bundle import load_bundle
from mst_distill.evaluate.calibration import threshold_for_accuracy
from mst_distill.mst.plan_run import run_of
from mst_distill.mst.run_stages import run_stages
from mst_distill.pipelines.evaluate.pipeline import FIGURES as SHOWN
from mst_distill.report.run_page import FIGURES
from projects import FINISHED, copy_project, finished_project, run_session, session_in, stages

RUN = "digits/heldout-all/image/seed-0/main"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with a tracked run of the default pipeline."""
    return finished_project(tmp_path_factory.mktemp("distill") / "project", tmp_path_factory)


def files(project: Path, suffix: str = "") -> dict[str, str]:
    """Path of each file that runs have written, to the hash of its content."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project / "data").rglob(f"*{suffix}"))
        if path.is_file() and "01_raw" not in path.parts
    }


def test_a_run_prints_its_progress_and_the_verdict(project):
    printed = (project / "printed.txt").read_text()
    for stage in ("teachers", "masks", "route", "baseline (route)"):
        assert f"{stage} epoch 1/" in printed
    verdict = json.loads((project / f"data/08_reporting/{RUN}/metrics.json").read_text())["verdict"]
    assert verdict in " ".join(printed.split())


def test_a_run_ends_with_its_verdict_and_the_path_of_its_report(project):
    printed = (project / "printed.txt").read_text()
    verdict = json.loads((project / f"data/08_reporting/{RUN}/metrics.json").read_text())["verdict"]
    last = " ".join(printed[printed.index("execution completed") :].replace("INFO", "").split())
    assert last.endswith(f"{verdict} Report: data/08_reporting/{RUN}/report.html")


def test_the_report_of_a_run_is_one_file(project):
    folder = project / f"data/08_reporting/{RUN}"
    html = (folder / "report.html").read_text()
    page = check_is_one_file(html)
    assert json.loads((folder / "metrics.json").read_text())["verdict"] in page.text
    captions = [image["alt"] for image in page.tags("img")]
    assert [caption for caption in captions if caption in FIGURES.values()] == [
        FIGURES[name] for name in SHOWN
    ]
    assert len(captions) == len(SHOWN) + 12
    assert "recordings: data/01_raw/digits/digits.npz" in page.text
    card = json.loads((project / f"data/06_models/{RUN}/student.json").read_text())
    assert f"SHA-256 {card['weights']['sha256']}" in page.text
    assert "--pipeline=diagnose" in page.text  # it was not diagnosed
    assert len(html) < 2_000_000


def test_the_model_card_has_the_licence_of_the_data(project):
    page = (project / f"data/08_reporting/{RUN}/model_card.md").read_text()
    assert yaml.safe_load(page.split("---\n")[1])["license"] == "cc-by-sa-4.0"
    assert "Free Spoken Digit Dataset" in page
    assert "| stage 3, distillation | 2 epochs, batches of 64, learning rate 0.001 |" in page
    assert "| router | hard, 1 of the specialists for a sample |" in page
    assert str(project) not in page


def test_the_nodes_and_run_stages_have_the_same_results_to_the_bit(project):
    with session_in(project, **FINISHED) as session:
        catalog = session.load_context().catalog
        plan = catalog.plan
        done = run_stages(run_of(catalog.load("samples"), catalog.load("splits"), plan), plan)
    student = load_bundle(project / f"data/06_models/{RUN}/student.json").net
    expected = done.student.students[plan.selection].state_dict()
    assert all(value.equal(expected[name]) for name, value in student.state_dict().items())


def test_the_bundle_of_the_student_has_its_origin(project):
    card = json.loads((project / f"data/06_models/{RUN}/student.json").read_text())
    assert card["type"] == "mst_distill.nets.digits.DigitImageNet"
    assert card["arguments"] == {"classes": 10}
    origin = card["provenance"]
    assert set(origin) == {"made_by", "parameters", "made_from", "origin", "versions", "git"}
    assert origin["made_by"] == "route.train_student"
    assert origin["parameters"]["seed"] == 0
    assert {"samples", "splits", "members", "masks"} <= set(origin["made_from"])
    assert {"mst-distill", "torch", "numpy"} == set(origin["versions"])
    assert set(card["metrics"]) == {"epoch", "accuracy", "ce"}
    student = load_bundle(project / f"data/06_models/{RUN}/student.json").net
    selected = load_bundle(project / f"data/06_models/{RUN}/students/accuracy.json").net
    assert all(
        value.equal(selected.state_dict()[name]) for name, value in student.state_dict().items()
    )


def test_the_report_has_all_models_and_its_metrics_agree_with_the_predictions(project):
    folder = project / f"data/08_reporting/{RUN}"
    metrics = json.loads((folder / "metrics.json").read_text())
    names = {
        "multimodal teacher",
        "audio teacher",
        "multimodal/fusion",
        "multimodal/hidden",
        "audio/dense",
        "audio/hidden",
        "student after stage 1",
    }
    names |= {
        f"{model}{criterion}"
        for model in ("student", "baseline")
        for criterion in ("", " by ce", " by last")
    }
    assert set(metrics["models"]) == names | {"linear model"}
    linear = metrics["models"].pop("linear model")
    assert linear["accuracy"] > metrics["commonest_class"]["accuracy"]
    predictions = pd.read_parquet(project / f"data/07_model_output/{RUN}/predictions.parquet")
    correct = predictions["label"] == predictions["prediction"]
    accuracy = correct.groupby(predictions["model"]).mean()
    for name, of_model in metrics["models"].items():
        assert of_model["accuracy"] == pytest.approx(accuracy[name])
    splits = pd.read_parquet(
        project / "data/05_model_input/digits/heldout-all/seed-0/splits.parquet"
    )
    held_out = set(splits.query("split == 'test'")["id"])
    assert set(predictions["id"]) == held_out
    gain = metrics["gain_over_baseline"]["student"]
    assert gain["difference"] == pytest.approx(accuracy["student"] - accuracy["baseline"])
    assert gain["low"] <= gain["difference"] <= gain["high"]
    for name, metric in (
        ("nll", "nll"),
        ("nll_scaled", "nll_scaled"),
        ("calibration", "calibration_error"),
    ):
        reported = metrics[f"{name}_over_baseline"]["student"]
        values = [metrics["models"][model][metric] for model in ("student", "baseline")]
        assert reported["difference"] == pytest.approx(values[0] - values[1], rel=1e-9, abs=1e-12)
        assert reported["low"] < reported["high"]
    assert set(metrics["disagreement"]) == {"teachers", "specialists"}


def test_every_model_has_a_temperature_and_scaled_metrics(project):
    folder, reports = project / f"data/07_model_output/{RUN}", project / f"data/08_reporting/{RUN}"
    fitted = project / f"data/06_models/{RUN}/temperatures.json"
    temperatures = json.loads(fitted.read_text())
    metrics = json.loads((reports / "metrics.json").read_text())["models"]
    found = {name: of_model["temperature"] for name, of_model in metrics.items()}
    assert found.pop("linear model") > 0
    assert found == temperatures
    scaled = {"temperature", "nll_scaled", "calibration_error_scaled", "accuracy_at_80"}
    assert scaled < set(pd.read_csv(reports / "comparison.csv"))
    predictions = pd.read_parquet(folder / "predictions.parquet")
    nll = predictions.groupby("model")["nll_scaled"].mean()
    for name in temperatures:
        assert metrics[name]["nll_scaled"] == pytest.approx(nll[name])
    student = predictions[predictions["model"] == "student"].sort_values("confidence_scaled")
    surest = student.tail(-(-4 * len(student) // 5))  # 80 %, rounded up
    accuracy = surest["correct"].mean()
    assert metrics["student"]["accuracy_at_80"] == pytest.approx(accuracy, abs=1e-12)


def test_scaling_raises_the_likelihood_on_the_validation_split(project):
    """The student's predictions there, with which `predict` finds a threshold."""
    table = pd.read_parquet(project / f"data/07_model_output/{RUN}/validation_predictions.parquet")
    splits = pd.read_parquet(
        project / "data/05_model_input/digits/heldout-all/seed-0/splits.parquet"
    )
    assert table["id"].tolist() == splits.query("split == 'valid'")["id"].tolist()
    assert table["nll_scaled"].mean() < table["nll"].mean()
    wanted = table["correct"].mean() + 0.1
    threshold = threshold_for_accuracy(table["confidence_scaled"], table["correct"], wanted)
    assert table[table["confidence_scaled"] >= threshold]["correct"].mean() >= wanted


def test_the_curves_of_risk_and_coverage_end_at_the_accuracy(project):
    folder = project / f"data/08_reporting/{RUN}"
    metrics = json.loads((folder / "metrics.json").read_text())["models"]
    curves = pd.read_csv(folder / "risk_coverage.csv")
    assert list(dict.fromkeys(curves["model"])) == ["student", "baseline", "multimodal teacher"]
    for name, curve in curves.groupby("model"):
        assert curve["coverage"].iloc[-1] == 1
        assert curve["accuracy"].iloc[-1] == pytest.approx(metrics[name]["accuracy"], abs=1e-6)
        assert (curve["coverage"].diff()[1:] > 0).all()
        assert (curve["confidence"].diff()[1:] <= 0).all()
    assert (folder / "risk_coverage_figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_of_logits_has_all_specialists_on_all_samples(project):
    table = pd.read_parquet(project / f"data/06_models/{RUN}/specialist_logits.parquet")
    assert len(table) == 1797 * 4
    assert list(table.columns) == ["id", "split", "specialist", *map(str, range(10))]


def test_parameters_histories_metrics_figures_and_the_student_are_logged_to_mlflow(project):
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == run.data.tags["run_folder"] == RUN
    assert run.data.tags["verdict"].startswith("Distillation")
    parameters = run.data.params
    assert parameters["route.epochs"] == "2"
    assert parameters["members.modalities.image.type"] == "mst_distill.nets.digits.DigitImageNet"
    assert not any("{" in value or "=" in value for value in parameters.values())
    assert {"models.student.accuracy", "gain_over_baseline.student.low"} <= set(run.data.metrics)
    history = client.get_metric_history(run.info.run_id, "route/valid_accuracy")
    saved = pd.read_csv(project / f"data/08_reporting/{RUN}/route_history.csv")
    assert [point.value for point in history] == pytest.approx(saved["valid_accuracy"].tolist())
    for stage in ("teachers", "masks", "baseline"):
        assert any(name.startswith(f"{stage}/") for name in run.data.metrics)
    (folder,) = (project / "mlruns").glob(f"*/{run.info.run_id}/artifacts")
    artifacts = {file.relative_to(folder).as_posix() for file in folder.rglob("*")}
    assert {"student/student.json", "student/student.safetensors"} <= artifacts
    assert "learning_curves/learning_curves.png" in artifacts


def test_an_untracked_run_elsewhere_has_the_same_results_to_the_bit(project, tmp_path):
    """Without tracking, training is the same, and MLflow has no run."""
    other = copy_project(tmp_path / "project")
    run_session(other, **FINISHED)
    tracked, untracked = files(project), files(other)
    # The JSON files of bundles and store name the revision of the code and the raw files.
    stable = [name for name in tracked if not name.endswith(".json") or "reporting" in name]
    assert sum(name.endswith(".safetensors") for name in stable) == 17
    assert {name: tracked[name] for name in stable} == {
        name: untracked.get(name) for name in stable
    }
    client = MlflowClient(f"sqlite:///{other / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill")
    assert not experiment or not client.search_runs([experiment.experiment_id])


def test_other_arguments_of_the_benchmark_rebuild_the_store(project):
    """The files and the pairs are the same, but the images differ."""
    header = project / "data/05_model_input/digits/heldout-300/samples/store.json"
    digests = []
    for energy in (0.3, 0.6, 0.6):
        benchmark = {"arguments": {"kept_energy": energy}}
        run_session(project, "ingest", limit=300, run="energy", benchmark=benchmark)
        digests.append((json.loads(header.read_text())["digest"], header.stat().st_mtime_ns))
    assert digests[0] != digests[1] == digests[2]
    assert digests[0][0] != digests[1][0]


def test_stages_run_one_by_one_and_leave_other_runs_unchanged(project):
    before = files(project)
    quick = {"limit": 400, **stages(epochs=1)}
    for stage in ("ingest", "teachers", "masks", "route", "evaluate"):
        run_session(project, stage, target="audio", seed=3, run="trial", **quick)
    after = files(project)
    assert {name: after[name] for name in before} == before
    new = "data/06_models/digits/heldout-400/audio/seed-3/trial/student.json"
    assert json.loads((project / new).read_text())["type"].endswith("DigitAudioNet")
    assert set(after) - set(before)


def test_a_failed_run_has_the_status_failed_in_mlflow(project):
    shutil.copy2(project / "mlflow.db", project / "before.db")
    tracked = {"runtime": {"tracking": True}, "run": "bad"}
    teachers = {"epochs": 1, "learning_rate": 1e30}
    with pytest.raises(FloatingPointError):
        run_session(project, "teachers", teachers=teachers, **tracked)
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    assert runs[0].info.status == "FAILED"
