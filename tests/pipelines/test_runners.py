"""Runners that run several nodes at once are rejected, since nodes share one random generator."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.runner import ParallelRunner, ThreadRunner

from projects import copy_project, session_in


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("runner", [ThreadRunner, ParallelRunner])
def test_a_concurrent_runner_is_an_error_before_any_file_is_written(tmp_path, runner):
    project = copy_project(tmp_path / "project")
    before = files(project)
    rule = f"--runner={runner.__name__} runs nodes at the same time.*use --runner=SequentialRunner"
    with session_in(project) as session, pytest.raises(ValueError, match=rule):
        session.run(runner=runner())
    assert files(project) == before
