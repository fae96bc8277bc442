"""Temporary copies of the project, and runs of kedro in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).parents[1]

SHORT = "teachers.epochs=1,masks.epochs=1,route.epochs=2"
"""The parameters of `finished_project`, as for ``--params``; `FINISHED` has them as blocks."""

FINISHED = {"teachers": {"epochs": 1}, "masks": {"epochs": 1}, "route": {"epochs": 2}}

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # the networks are tiny, and other tests may run at the same time
    "COLUMNS": "250",  # so that logs do not wrap the lines that tests search for
    "PYTHONUNBUFFERED": "1",
}


def copy_project(folder: Path, root: Path = ROOT) -> Path:
    """Copy configuration, notebooks and the embedded benchmark, but no results of runs.

    ``conf/local`` is empty in the copy, so that a developer's own settings affect no test. The code
    is not copied: ``src`` is empty in the copy, so that the installed package is imported, which
    for tests is this working tree.

    Args:
        folder: The destination; it may exist, but must not contain a project.
        root: The root of the project that is copied, this working tree or another.

    Returns:
        `folder`.
    """
    (folder / "src").mkdir(parents=True)
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy2(root / name, folder / name)
    for name in ("conf", "notebooks", "data/01_raw/digits"):
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=_ignored)
    (folder / "conf" / "local").mkdir(exist_ok=True)
    return folder


def finished_project(folder: Path, factory: pytest.TempPathFactory) -> Path:
    """Copy a project with a finished, tracked run: ``kedro run --pipeline=distill --params=SHORT``.

    The run is made once for all processes of a test session. ``printed.txt`` has what it printed.

    Args:
        folder: The destination.
        factory: The fixture ``tmp_path_factory``.

    Returns:
        `folder`.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each process has its own folder in that of the session
    made = root / "finished"
    with FileLock(root / "finished.lock"):
        if not made.is_dir():
            project = copy_project(root / "run")
            done = kedro(project, "run", "--pipeline=distill", f"--params={SHORT}")
            (project / "printed.txt").write_text(done.stdout)
            project.rename(made)
    return shutil.copytree(made, folder)


def kedro(
    project: Path,
    *arguments: str,
    check: bool = True,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run ``kedro ARGUMENTS`` in a project, in a new process.

    Args:
        project: The root of the project.
        arguments: The arguments of the command line, for example ``run``, ``--params=seed=1``.
        check: Whether a failure of the command is an error.
        environment: Further environment variables, for example ``PYTHONPATH``.

    Returns:
        The completed process; ``stdout`` has the output of stdout and stderr as text.

    Raises:
        AssertionError: The command failed and `check` is set; the message has its output.
    """
    done = subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=project,
        env=os.environ | ENVIRONMENT | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"kedro {' '.join(arguments)} failed:\n{done.stdout}")
    return done


def run_session(
    project: Path,
    pipeline: str = "distill",
    nodes: Sequence[str] = (),
    env: str | None = None,
    only_missing_outputs: bool = False,
    **changes: Any,
) -> None:
    """Run a pipeline untracked in this process, which saves the seconds that a new process takes.

    The number of threads is that of `kedro`, so that both compute the same results to the bit.

    Args:
        project: The root of the project.
        pipeline: The name of the pipeline.
        nodes: Names of its nodes to run, without their namespace; all nodes if empty.
        env: The environment, as ``--env``.
        only_missing_outputs: As ``--only-missing-outputs``.
        changes: Parameters to change, as by ``--params``, but nested.
    """
    with session_in(project, env, **changes) as session:
        session.run(
            pipeline_names=[pipeline],
            node_names=[_full_name(pipeline, name) for name in nodes],
            only_missing_outputs=only_missing_outputs,
        )


@contextmanager
def session_in(project: Path, env: str | None = None, **changes: Any) -> Iterator[Any]:
    """An untracked session of Kedro in this process, with as many threads as `kedro` has.

    Args:
        project: The root of the project.
        env: The environment, as ``--env``.
        changes: Parameters to change, as by ``--params``, but nested.
    """
    import torch
    from kedro.framework.project import PACKAGE_NAME
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    here, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(project)
    torch.set_num_threads(int(ENVIRONMENT["OMP_NUM_THREADS"]))
    try:
        if PACKAGE_NAME is None:  # a second time would reset the settings of the package
            bootstrap_project(project)
        changes["runtime"] = {"tracking": False, **changes.get("runtime", {})}
        with KedroSession.create(project, env=env, runtime_params=changes) as session:
            yield session
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)


def _full_name(pipeline: str, node: str) -> str:
    """The name of a node, including its namespace."""
    from kedro.framework.project import pipelines

    names = (candidate.name for candidate in pipelines[pipeline].nodes)
    return next(name for name in names if name.endswith(f".{node}"))


def stages(masks: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> dict[str, Any]:
    """Parameters for `run_session`: `settings` for all three stages, and `masks` for stage 2."""
    blocks = {name: dict(settings) for name in ("teachers", "masks", "route")}
    blocks["masks"] |= masks
    return blocks


def _ignored(folder: str, names: list[str]) -> set[str]:
    local = Path(folder).parts[-2:] == ("conf", "local")
    return set(names) if local else {"__pycache__", ".ipynb_checkpoints"} & set(names)
