"""Throw-away copies of the project, and the command line in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",  # the nets are tiny, and other tests may run beside this one
    "COLUMNS": "250",  # logs do not break the lines that a test looks for
    "PYTHONUNBUFFERED": "1",
}


def copy_project(folder: Path, root: Path = ROOT) -> Path:
    """Copy configuration, notebooks and the embedded benchmark, but nothing that a run left.

    ``conf/local`` is empty, so that a developer's own settings change no test. The code is not
    copied: the copy's ``src`` is empty, so that the package comes from where it is installed,
    which for tests is this working tree.

    Args:
        folder: Where to; it may exist, but must not hold a project.
        root: Of what is copied, this working tree or another.

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


def kedro(
    project: Path,
    *arguments: str,
    check: bool = True,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run ``kedro ARGUMENTS`` in a project, in a process of its own.

    Args:
        project: Its root.
        arguments: Of the command line, for example ``run``, ``--params=seed=1``.
        check: Fail when the command does.
        environment: Variables that it gets besides, for example ``PYTHONPATH``.

    Returns:
        With ``returncode`` and, as one text in ``stdout``, all that was printed.

    Raises:
        AssertionError: The command failed; the message is what it printed.
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
    """Do as ``kedro run`` does, untracked, in this process: seconds less than in a new one.

    With as many threads as `kedro` has, so that both compute the same to the bit.

    Args:
        project: Its root.
        pipeline: Which to run.
        nodes: Which of its nodes; all, if none is named.
        env: As ``--env``.
        only_missing_outputs: As ``--only-missing-outputs``.
        changes: What ``--params`` would change, nested.
    """
    import torch
    from kedro.framework.project import PACKAGE_NAME
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    here, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(project)
    torch.set_num_threads(int(ENVIRONMENT["OMP_NUM_THREADS"]))
    try:
        if PACKAGE_NAME is None:  # settings and pipelines are the package's, in whatever copy
            bootstrap_project(project)
        changes["runtime"] = {"tracking": False, **changes.get("runtime", {})}
        with KedroSession.create(project, env=env, runtime_params=changes) as session:
            session.run(
                pipeline_names=[pipeline],
                node_names=nodes,
                only_missing_outputs=only_missing_outputs,
            )
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)


def stages(masks: Mapping[str, Any] = MappingProxyType({}), **settings: Any) -> dict[str, Any]:
    """The same `settings` of all three stages, and some of stage 2 besides, for `run_session`."""
    blocks = {name: dict(settings) for name in ("teachers", "masks", "route")}
    blocks["masks"] |= masks
    return blocks


def _ignored(folder: str, names: list[str]) -> set[str]:
    mine = Path(folder).parts[-2:] == ("conf", "local")
    return set(names) if mine else {"__pycache__", ".ipynb_checkpoints"} & set(names)
