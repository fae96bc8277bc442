"""`kedro run` as users type it: whole, in parts, for both targets, with and without MLflow."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mst_distill.artifacts.bundle import load_bundle
from projects import copy_project, kedro, run_session, stages

SHORT = "teachers.epochs=1,masks.epochs=1,route.epochs=2"
RUN = "digits/heldout-all/image/seed-0/main"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project in which the default run has been made, tracked."""
    folder = copy_project(tmp_path_factory.mktemp("distill") / "project")
    done = kedro(folder, "run", "--pipeline=distill", f"--params={SHORT}")
    (folder / "printed.txt").write_text(done.stdout)
    return folder


def files(project: Path, suffix: str = "") -> dict[str, str]:
    """Path to content's hash, of all that a run left."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project / "data").rglob(f"*{suffix}"))
        if path.is_file() and "01_raw" not in path.parts
    }


def test_a_run_says_how_far_it_is_and_ends_with_the_verdict(project):
    printed = (project / "printed.txt").read_text()
    for stage in ("teachers", "masks", "route", "control (route)"):
        assert f"{stage} epoch 1/" in printed
    verdict = json.loads((project / f"data/08_reporting/{RUN}/metrics.json").read_text())["verdict"]
    assert verdict in " ".join(printed.split())


def test_the_student_s_bundle_says_where_it_comes_from(project):
    card = json.loads((project / f"data/06_models/{RUN}/student.json").read_text())
    assert card["type"] == "mst_distill.nets.digits.DigitImageNet"
    assert card["arguments"] == {"classes": 10}
    origin = card["provenance"]
    assert set(origin) == {"made_by", "parameters", "made_from", "origin", "versions", "git"}
    assert origin["made_by"] == "train_student"
    assert origin["parameters"]["seed"] == 0
    assert {"samples", "splits", "members", "masks"} <= set(origin["made_from"])
    assert {"mst-distill", "torch", "numpy"} == set(origin["versions"])
    assert set(card["metrics"]) == {"epoch", "accuracy", "ce"}
    student = load_bundle(project / f"data/06_models/{RUN}/student.json").net
    chosen = load_bundle(project / f"data/06_models/{RUN}/students/accuracy.json").net
    assert all(
        value.equal(chosen.state_dict()[name]) for name, value in student.state_dict().items()
    )


def test_the_report_holds_every_model_and_its_figures_agree(project):
    """Accuracy, again, from the table of predictions."""
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
        f"{who}{rule}" for who in ("student", "control") for rule in ("", " by ce", " by last")
    }
    assert set(metrics["models"]) == names
    predictions = pd.read_parquet(project / f"data/07_model_output/{RUN}/predictions.parquet")
    right = predictions["label"] == predictions["prediction"]
    accuracy = right.groupby(predictions["model"]).mean()
    for name, figures in metrics["models"].items():
        assert figures["accuracy"] == pytest.approx(accuracy[name])
    splits = pd.read_parquet(
        project / "data/05_model_input/digits/heldout-all/seed-0/splits.parquet"
    )
    held_out = set(splits.query("split == 'test'")["id"])
    assert set(predictions["id"]) == held_out
    gain = metrics["gain_over_control"]["student"]
    assert gain["difference"] == pytest.approx(accuracy["student"] - accuracy["control"])
    assert gain["low"] <= gain["difference"] <= gain["high"]
    for over, figure in (("nll", "nll"), ("calibration", "calibration_error")):
        found = metrics[f"{over}_over_control"]["student"]
        both = [metrics["models"][model][figure] for model in ("student", "control")]
        assert found["difference"] == pytest.approx(both[0] - both[1], rel=1e-9, abs=1e-12)
        assert found["low"] < found["high"]
    assert set(metrics["disagreement"]) == {"teachers", "specialists"}


def test_specialists_logits_are_a_table_of_every_sample(project):
    table = pd.read_parquet(project / f"data/06_models/{RUN}/specialist_logits.parquet")
    assert len(table) == 1797 * 4
    assert list(table.columns) == ["id", "split", "specialist", *map(str, range(10))]


def test_mlflow_has_flat_parameters_histories_metrics_figures_and_the_student(project):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    assert run.info.status == "FINISHED"
    parameters = run.data.params
    assert parameters["route.epochs"] == "2"
    assert parameters["members.modalities.image.type"] == "mst_distill.nets.digits.DigitImageNet"
    assert not any("{" in value or "=" in value for value in parameters.values())
    assert {"models.student.accuracy", "gain_over_control.student.low"} <= set(run.data.metrics)
    history = client.get_metric_history(run.info.run_id, "route/valid_accuracy")
    saved = pd.read_csv(project / f"data/08_reporting/{RUN}/route_history.csv")
    assert [point.value for point in history] == pytest.approx(saved["valid_accuracy"].tolist())
    for stage in ("teachers", "masks", "control"):
        assert any(name.startswith(f"{stage}/") for name in run.data.metrics)
    artifacts = {
        file.path
        for top in client.list_artifacts(run.info.run_id)
        for file in client.list_artifacts(run.info.run_id, top.path)
    }
    assert {"student/student.json", "student/student.safetensors"} <= artifacts
    assert "learning_curves/learning_curves.png" in artifacts


def test_the_same_run_elsewhere_untracked_is_the_same_to_the_bit(project, tmp_path):
    """Tracking off leaves training as it is, and no run in MLflow."""
    other = copy_project(tmp_path / "project")
    run_session(other, **stages(epochs=1) | {"route": {"epochs": 2}})
    one, two = files(project), files(other)
    # The cards of bundles and store say which revision of the code and which raw file it was.
    stable = [name for name in one if not name.endswith(".json") or "reporting" in name]
    assert sum(name.endswith(".safetensors") for name in stable) == 15
    assert {name: one[name] for name in stable} == {name: two.get(name) for name in stable}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{other / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill")
    assert not experiment or not client.search_runs([experiment.experiment_id])


def test_what_is_there_is_not_made_again(project):
    before = files(project)
    done = kedro(project, "run", "--only-missing-outputs", f"--params={SHORT}")
    assert "Running node" not in done.stdout
    assert files(project) == before


def test_a_benchmark_s_other_arguments_make_another_store(project):
    """The same files and the same pairs, but other images."""
    card = project / "data/05_model_input/digits/heldout-300/samples/store.json"
    digests = []
    for energy in (0.3, 0.6, 0.6):
        benchmark = {"arguments": {"kept_energy": energy}}
        run_session(project, "ingest", limit=300, run="energy", benchmark=benchmark)
        digests.append((json.loads(card.read_text())["digest"], card.stat().st_mtime_ns))
    assert digests[0] != digests[1] == digests[2]
    assert digests[0][0] != digests[1][0]


def test_stages_run_alone_from_the_catalog_and_other_runs_stay(project):
    before = files(project)
    quick = {"teachers": {"epochs": 1}, "masks": {"epochs": 1}, "route": {"epochs": 1}}
    for stage in ("ingest", "teachers", "masks", "route", "evaluate"):
        run_session(project, stage, target="audio", seed=3, run="trial", **quick)
    after = files(project)
    assert {name: after[name] for name in before} == before
    new = "data/06_models/digits/heldout-all/audio/seed-3/trial/student.json"
    assert json.loads((project / new).read_text())["type"].endswith("DigitAudioNet")
    assert set(after) - set(before)


def test_a_failed_run_is_failed_in_mlflow_too(project):
    from mlflow.tracking import MlflowClient

    shutil.copy2(project / "mlflow.db", project / "before.db")
    tracked = {"runtime": {"tracking": True}, "run": "bad"}
    teachers = {"epochs": 1, "learning_rate": 1e30}
    with pytest.raises(FloatingPointError):
        run_session(project, "teachers", teachers=teachers, **tracked)
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("mst-distill").experiment_id])
    assert runs[0].info.status == "FAILED"
