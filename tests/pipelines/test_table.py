"""Own data without Python: a table and seven lines of YAML, from `check` to `predict`."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mst_distill.config_loader import ConfigLoader
from mst_distill.plan import read_plan
from projects import ROOT, copy_project, kedro, run_session, stages

PARAMETERS = """
benchmark:
  type: mst_distill.benchmarks.table.Table
  arguments:
    table: data/01_raw/mine/index.csv
    modalities:
      picture: {type: image, size: 16}
      counts: {type: numbers, column: [a, b]}
      track: {type: array, shape: [5, 20]}
members: auto
"""


def write_set(folder: Path) -> None:
    """Write 45 samples of three classes, and four new samples, of which one is damaged."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for row in range(49):
        label = row % 3
        pixels = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        pixels[:, 8 * label : 8 * label + 8] = 255
        Image.fromarray(pixels).save(folder / f"{row}.png")
        np.save(folder / f"{row}.npy", rng.normal(size=(5, 20)).astype(np.float32))
        numbers = {"a": label + rng.normal() / 9, "b": rng.normal()}
        files = {"picture": f"{row}.png", "track": f"{row}.npy"}
        rows.append({**files, **numbers, "label": ("cat", "dog", "eel")[label]})
    table = pd.DataFrame(rows)
    table.iloc[:45].to_csv(folder / "index.csv", index=False)
    table.iloc[45:][["picture"]].to_csv(folder / "new.csv", index=False)
    (folder / "46.png").write_bytes(b"damaged")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = copy_project(tmp_path / "project")
    write_set(root / "data" / "01_raw" / "mine")
    (root / "conf" / "mine").mkdir()
    (root / "conf" / "mine" / "globals.yml").write_text("benchmark: mine\ntarget: picture\n")
    (root / "conf" / "mine" / "parameters.yml").write_text(PARAMETERS)
    return root


def test_the_yaml_of_the_documentation_is_a_valid_plan(tmp_path: Path) -> None:
    blocks = (ROOT / "docs" / "your-own-data.md").read_text().split("```")[1::2]
    root = copy_project(tmp_path / "project")
    (root / "conf" / "mine").mkdir()
    for name in ("globals.yml", "parameters.yml"):
        (text,) = [block for block in blocks if f"# conf/mine/{name}" in block]
        lines = [line for line in text.splitlines()[1:] if line and not line.startswith("#")]
        (root / "conf" / "mine" / name).write_text("\n".join(lines))
        if name == "parameters.yml":
            assert len(lines) == 6  # and the first line is the environment
    loader = ConfigLoader(str(root / "conf"), "mine", base_env="base", default_run_env="base")
    plan = read_plan(loader["parameters"])
    assert plan.target == "text"
    assert list(plan.members.modalities) == ["photo", "text", "counts"]


def files_of(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def test_a_table_is_distilled_and_its_student_reads_new_files(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(project / "data")
    run_session(project, "check", env="mine")
    printed = capsys.readouterr().out
    assert files_of(project / "data") == before
    for expected in (
        "3 classes: cat, dog, eel",
        "picture   3 x 16 x 16",
        "multimodal/hidden  128,551",
    ):
        assert expected in printed

    run_session(project, env="mine", **stages(epochs=1))
    run = "mine/heldout-all/picture/seed-0/main"
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    assert metrics["verdict"]
    student = json.loads((project / f"data/06_models/{run}/student.json").read_text())
    assert student["type"] == "mst_distill.nets.simple.MapNet"
    origin = student["provenance"]["parameters"]["members"]
    assert origin["modalities"]["track"]["type"] == "mst_distill.nets.simple.SequenceNet"

    for unused in (project / "data/01_raw/mine").glob("*.npy"):
        unused.unlink()
    changes = {"predict": {"source": "data/01_raw/mine/new.csv"}, **stages(epochs=1)}
    run_session(project, "predict", env="mine", **changes)
    (found,) = project.rglob("predicted-new/predictions.csv")
    table = pd.read_csv(found, keep_default_na=False)
    assert len(table) == 4
    assert table["error"].map(bool).tolist() == [False, True, False, False]
    assert "46.png: contains no image" in table["error"][1]
    assert set(table["label"].iloc[[0, 2, 3]]) <= {"cat", "dog", "eel"}


def test_samples_may_lack_modalities_in_every_pipeline(project: Path) -> None:
    table = pd.read_csv(project / "data/01_raw/mine/index.csv", dtype=str)
    rng = np.random.default_rng(3)
    for columns in (["picture"], ["a", "b"], ["track"]):
        table.loc[rng.choice(45, 9, replace=False), columns] = ""
    table.to_csv(project / "data/01_raw/mine/index.csv", index=False)
    parameters = PARAMETERS.replace("index.csv\n", "index.csv\n    incomplete: true\n")
    (project / "conf/mine/parameters.yml").write_text(parameters)
    short = {
        **stages(epochs=1),
        "compare": {"seeds": 1, "targets": "picture"},
        "label_curve": {"shares": [0.5], "methods": "baseline kd dml pseudo_labels mst"},
        "labelled_validation": 1,
    }
    run_session(project, "check", env="mine")
    for pipeline in ("distill", "diagnose", "label_curve"):
        run_session(project, pipeline, env="mine", **short)
    run = "mine/heldout-all/picture/seed-0/main"
    report = json.loads((project / f"data/08_reporting/{run}/samples_report.json").read_text())
    counts = pd.DataFrame(report["combinations"]).T
    assert counts.to_numpy().sum() == sum(report["splits"].values()) > 40
    predictions = pd.read_parquet(project / f"data/07_model_output/{run}/predictions.parquet")
    found = predictions["model"].value_counts()
    complete = counts.loc["picture + counts + track", "test"]
    with_picture = counts.loc[counts.index.str.contains("picture"), "test"].sum()
    assert found["multimodal teacher"] == found["counts/hidden"] == complete
    assert found["student"] == found["baseline"] == with_picture > complete
    metrics = json.loads((project / f"data/08_reporting/{run}/metrics.json").read_text())
    test = report["splits"]["test"]
    assert metrics["verdict"].endswith(
        f"The students were evaluated on the {with_picture} of {test} test samples with the "
        f"modality picture. Teachers and specialists were evaluated on the {complete} of {test} "
        f"with all modalities."
    )
    trials = pd.read_parquet(
        project / "data/07_model_output/mine/heldout-all/label_curve/main"
        "/label_curve_trials.parquet"
    )
    assert (trials["error"] == "").all()


def test_layers_lists_shapes_and_the_cost_of_masks(project: Path) -> None:
    done = kedro(project, "layers", "--env=mine", "--member=counts").stdout
    assert "counts: mst_distill.nets.simple.VectorNet" in done
    assert "hidden        Linear        64     128,551 (masked)" in done


def test_an_error_of_layers_is_a_message(project: Path) -> None:
    wrong = kedro(project, "layers", "--env=mine", "--member=count", check=False)
    assert wrong.returncode == 1
    assert "did you mean 'counts'" in wrong.stdout
    assert "Traceback" not in wrong.stdout


def test_init_data_writes_an_environment_that_passes_the_check(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = "data/01_raw/mine/index.csv"
    done = kedro(project, "init-data", table, "--env=guessed").stdout
    assert "conf/guessed/parameters.yml was written; the types are guesses: read it." in done
    written = (project / "conf" / "guessed" / "parameters.yml").read_text()
    assert f'table: "{table}"' in written
    as_pixels = written.replace('type: "photo"', 'type: "image"')
    (project / "conf" / "guessed" / "parameters.yml").write_text(as_pixels)
    run_session(project, "check", env="guessed", runtime={"tracking": True})
    printed = " ".join(capsys.readouterr().out.split())
    assert "Data and networks fit together. Nothing was written." in printed
    assert not (project / "data" / "08_reporting").exists()
    runs = sqlite3.connect(project / "mlflow.db").execute("SELECT count(*) FROM runs").fetchone()
    assert runs == (0,)


@pytest.mark.long
def test_photographs_and_texts_are_distilled_with_the_encoders_of_the_installation(
    project: Path,
) -> None:
    table = pd.read_csv(project / "data/01_raw/mine/index.csv")
    words = {"cat": "it purrs", "dog": "it barks", "eel": "it swims"}
    table["text"] = [f"{words[label]}, number {row}" for row, label in enumerate(table["label"])]
    table.to_csv(project / "data/01_raw/mine/index.csv", index=False)
    table[["text"]].tail(3).to_parquet(project / "data/01_raw/mine/new.parquet")
    (project / "conf" / "mine" / "parameters.yml").write_text(
        """
benchmark:
  type: mst_distill.benchmarks.table.Table
  arguments:
    table: data/01_raw/mine/index.csv
    modalities: {picture: photo, text: text}
members: auto
"""
    )
    run_session(project, env="mine", target="text", **stages(epochs=1))
    source = "data/01_raw/mine/new.parquet"
    changes = {"target": "text", "predict": {"source": source}, **stages(epochs=1)}
    run_session(project, "predict", env="mine", **changes)
    (found,) = project.rglob("predicted-new/predictions.csv")
    table = pd.read_csv(found, keep_default_na=False)
    assert table["error"].tolist() == ["", "", ""]
    assert set(table["label"]) <= {"cat", "dog", "eel"}
