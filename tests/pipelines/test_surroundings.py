"""Runs in surroundings that are not those of a developer: another folder, another encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from projects import ENVIRONMENT, ROOT, copy_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path / "project")


OWN_SOURCE = """
from mst_distill.benchmarks.digits import Digits


class Mine(Digits):
    classes = tuple("abcdefghij")
"""


def test_a_run_from_another_folder_reads_and_writes_in_the_project(project: Path) -> None:
    """Raw files, logging, MLflow and own modules are relative to the root of the project."""
    folder = project / "notebooks"
    before = set(folder.iterdir())
    (project / "own").mkdir()
    (project / "own" / "my_source.py").write_text(OWN_SOURCE)
    (project / "conf/local/parameters.yml").write_text(
        "benchmark: {type: my_source.Mine, arguments: {recordings: data/01_raw/digits/digits.npz}}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=ingest", "--params=limit=300"],
        cwd=folder,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(["own", *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = project / "data/08_reporting/digits/heldout-300/image/seed-0/main/samples_summary.csv"
    assert "\nj," in summary.read_text()
    assert (project / "mlflow.db").is_file()
    assert set(folder.iterdir()) == before
    assert "Loading data from" not in done.stdout  # conf/logging.yml leaves these lines out


@pytest.mark.long
def test_runs_that_start_together_in_a_new_project_are_all_tracked(project: Path) -> None:
    """They share the database of MLflow, the samples and the splits."""
    command = [sys.executable, "-m", "kedro", "run", "--pipeline=ingest"]
    runs = [
        subprocess.Popen(
            [*command, f"--params=limit=300,run={name}"],
            cwd=project,
            env=os.environ | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("one", "two", "three")
    ]
    printed = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "\n".join(printed)
    assert not any("MLflow tracks this run no further" in text for text in printed), printed
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * 3
    seed = project / "data/05_model_input/digits/heldout-300/seed-0"
    assert {file.name for file in seed.iterdir()} == {
        "splits.parquet",
        "splits.parquet.origin.json",
    }


def test_pages_are_utf_8_whatever_the_encoding_of_the_system(tmp_path: Path) -> None:
    code = (
        "import sys, yaml\n"
        "from kedro.io import DataCatalog\n"
        f"text = open({str(ROOT / 'conf/base/catalog.yml')!r}, encoding='utf-8').read()\n"
        "entry = yaml.safe_load(text)['methods_page'] | {'filepath': sys.argv[1]}\n"
        "catalog = DataCatalog.from_config({'page': entry})\n"
        "catalog.save('page', '1.0 \\u00b1 0.1 \\u2013')\n"
        "assert catalog.load('page').startswith('1.0 \\u00b1')\n"
    )
    page = tmp_path / "page.md"
    done = subprocess.run(
        [sys.executable, "-c", code, str(page)],
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert page.read_text(encoding="utf-8") == "1.0 \u00b1 0.1 \u2013"
