"""The pipelines that compute, on a simulated second GPU: the results of a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from projects import copy_project, run_session, stages
from simulated_gpu import SimulatedGPU

FOLDERS = "digits/heldout-200/image/seed-0/main"
REPORT = f"data/08_reporting/{FOLDERS}"
SETTINGS: dict[str, Any] = {
    **stages({"factor": 10}, epochs=1),
    "limit": 200,
    "evaluate": {"resamples": 50},
    "diagnose": {"samples": 16},
    "predict": {"source": "new.csv"},
}


def run_all(project: Path, device: str) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits(as_frame=True).data[:40]
    digits.assign(id=[f"new-{row}" for row in range(40)]).to_csv(project / "new.csv", index=False)
    for pipeline in ("distill", "diagnose", "predict"):
        run_session(project, pipeline, **SETTINGS, runtime={"device": device})


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project whose pipelines have run on a CPU, and one on the second of two GPUs."""
    folder = tmp_path_factory.mktemp("devices")
    on_cpu, on_gpu = (copy_project(folder / name) for name in ("cpu", "gpu"))
    run_all(on_cpu, "cpu")
    with SimulatedGPU(devices=2) as gpu:
        run_all(on_gpu, "cuda:1")
        assert gpu.peak[1] > 0
        assert gpu.peak[0] == 0
    return on_cpu, on_gpu


def numbers(value: Any, path: str = "") -> dict[str, float]:
    """All numbers of a JSON value by their paths."""
    if isinstance(value, dict):
        return {k: v for key, of in value.items() for k, v in numbers(of, f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, of in enumerate(value) for k, v in numbers(of, f"{path}/{i}").items()}
    return {path: value} if isinstance(value, int | float) else {}


@pytest.mark.parametrize("report", ["metrics.json", "diagnosis.json"])
def test_reports_have_the_numbers_of_a_cpu(projects: tuple[Path, Path], report: str) -> None:
    expected, found = (
        numbers(json.loads((project / REPORT / report).read_text())) for project in projects
    )
    assert len(expected) > 100
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_new_data_have_the_predictions_of_a_cpu(projects: tuple[Path, Path]) -> None:
    file = f"data/07_model_output/{FOLDERS}/predicted-new/predictions.parquet"
    expected, found = (pd.read_parquet(project / file) for project in projects)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)
