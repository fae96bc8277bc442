"""Sweeps: the points that a file lists, and a sweep that fails in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from mst_distill.sweep import read_sweep
from projects import ENVIRONMENT, ROOT, copy_project

TERMS: dict[str, Any] = {
    "limit": 200,
    "teachers": {"epochs": 1},
    "route": {"epochs": 1},
    "runtime": {"tracking": False},
    "compare": {"seeds": 3, "tuning_seeds": 0, "only": "baseline kd", "targets": "audio"},
}


def write(folder: Path, content: object) -> Path:
    file = folder / "sweep.yml"
    file.write_text(
        yaml.safe_dump(content, sort_keys=False) if not isinstance(content, str) else content
    )
    return file


def test_every_environment_is_combined_with_every_variant(tmp_path: Path) -> None:
    content = {
        "run": "paper",
        "parameters": {"compare": {"seeds": 5, "targets": "all"}},
        "environments": {"base": None, "avmnist": {"compare": {"targets": "image"}}},
        "variants": [{}, {"labelled": 0.1, "compare": {"seeds": 3}}, {"run": "strong"}],
    }
    points = read_sweep(write(tmp_path, content)).points()
    assert [point.env for point in points] == [None] * 3 + ["avmnist"] * 3
    assert [point.run for point in points] == ["paper", "paper", "strong"] * 2
    assert points[1].parameters == {
        "run": "paper",
        "compare": {"seeds": 3, "targets": "all"},
        "labelled": 0.1,
    }
    assert points[5].parameters["compare"] == {"seeds": 5, "targets": "image"}
    assert points[0].title == "base"
    assert points[4].title == "avmnist with labelled=0.1, compare={'seeds': 3}"
    without = read_sweep(write(tmp_path, {"run": "a", "environments": {"base": {}}}))
    assert [point.parameters for point in without.points()] == [{"run": "a"}]


def test_the_sweep_of_the_paper_has_the_environments_of_its_benchmarks() -> None:
    points = read_sweep(ROOT / "sweeps/paper.yml").points()
    assert [point.env for point in points] == [
        *("avmnist", "ravdess", "vggsound50k", "crisismmd", "nyudepthv2"),
    ]
    assert all((ROOT / "conf" / str(point.env)).is_dir() for point in points)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"run": "a"}, "'environments' is missing"),
        ({"run": "a", "environments": {}}, "environments: .*at least 1 item"),
        ({"run": "a", "environment": {}}, "unknown parameter 'environment'.*'environments'"),
        ([1], "must have the keys run, parameters, environments, variants"),
        ("a: [", "is not YAML"),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, content: object, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(ValueError, match=message) as found:
        read_sweep(file)
    assert str(file) in str(found.value)


def sweep(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kedro", "sweep", "sweep.yml"],
        cwd=project,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_a_sweep_goes_on_behind_a_comparison_that_fails_and_runs_what_is_missing(
    tmp_path: Path,
) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/damaged").mkdir()
    text = (project / "conf/base/parameters.yml").read_text()
    block = yaml.safe_load(text[text.index("benchmark:") : text.index("# The multimodal")])
    block["benchmark"]["arguments"]["recordings"] = "missing.npz"
    (project / "conf/damaged/parameters.yml").write_text(yaml.safe_dump(block))
    (project / "conf/damaged/globals.yml").write_text("benchmark: damaged\ntarget: audio\n")
    content = {
        "run": "swept",
        "parameters": TERMS,
        "environments": {"damaged": {}, "base": {}},
        "variants": [{}, {"labelled": 0.5}],
    }
    terms: dict[str, Any] = {**TERMS, "teachers": {"epoch": 1}}
    write(project, {**content, "parameters": terms})
    wrong = sweep(project)
    assert wrong.returncode == 1
    assert "unknown parameter 'epoch'" in wrong.stderr
    assert not (project / "data/06_models").is_dir()

    write(project, content)
    first = sweep(project)
    assert first.returncode == 1
    lines = first.stdout.splitlines()
    assert "Comparison 3 of 4: base" in lines
    assert "base: finished" in lines
    assert "base with labelled=0.5: finished" in lines
    (line,) = [line for line in lines if line.startswith("damaged: failed")]
    assert "missing.npz" in line
    assert "all comparisons of swept: finished" in lines
    assert "2 of 5 failed" in first.stderr
    gains = pd.read_csv(project / "data/08_reporting/aggregate/swept/aggregate_gains.csv")
    assert {"digits, audio", "digits, 50 % of the labels, audio"} <= set(gains["setting"])

    folder = project / "data/06_models/digits/heldout-200"
    results = sorted(folder.rglob("*.result.json"))
    assert len(results) == 2 * 3 * (3 + 2)
    before = {path: path.stat().st_mtime_ns for path in results}
    lost = next(path for path in results if path.name.startswith("kd-image"))
    lost.unlink()
    sweep(project)
    changed = [path for path in results if path.stat().st_mtime_ns != before[path]]
    assert changed == [lost]
    assert json.loads(lost.read_text())["metrics"]
