"""Runners that run several nodes at once are rejected, since nodes share one random generator."""

from __future__ import annotations

from pathlib import Path

import pytest

from projects import copy_project, kedro


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("runner", ["kedro.runner.ThreadRunner", "ParallelRunner"])
def test_a_concurrent_runner_is_an_error_before_any_file_is_written(tmp_path, runner):
    project = copy_project(tmp_path / "project")
    before = files(project)
    untracked = "--params=runtime.tracking=false"
    done = kedro(project, "run", f"--runner={runner}", untracked, check=False)
    assert done.returncode != 0
    name = runner.split(".")[-1]
    assert f"--runner={name} runs nodes at the same time" in done.stdout
    assert "use --runner=SequentialRunner" in done.stdout.replace("\n", " ")
    assert files(project) == before
