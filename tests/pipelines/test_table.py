"""Own data without Python: a table and seven lines of YAML, from `check` to `predict`."""

from __future__ import annotations

import json
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
    run_session(project, "predict", env="mine", predict={"source": "data/01_raw/mine/new.csv"})
    (found,) = project.rglob("predicted*.csv")
    table = pd.read_csv(found, keep_default_na=False)
    assert len(table) == 4
    assert table["error"].map(bool).tolist() == [False, True, False, False]
    assert "46.png: contains no image" in table["error"][1]
    assert set(table["label"].iloc[[0, 2, 3]]) <= {"cat", "dog", "eel"}


def test_layers_lists_shapes_and_the_cost_of_masks(project: Path) -> None:
    done = kedro(project, "layers", "--env=mine", "--member=counts").stdout
    assert "counts: mst_distill.nets.simple.VectorNet" in done
    assert "hidden        Linear        64     128,551 (masked)" in done
    wrong = kedro(project, "layers", "--env=mine", "--member=count", check=False)
    assert wrong.returncode == 1
    assert "did you mean 'counts'" in wrong.stdout
    assert "Traceback" not in wrong.stdout
