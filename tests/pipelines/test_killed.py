"""A real `kedro run` is killed again and again, and ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from projects import ENVIRONMENT, copy_project, kedro

LENGTHS = "teachers.epochs=30,masks.epochs=8,route.epochs=150,masks.factor=10"
BARS = ("teachers", "masks", "route", "control (route)")
"""What stands before `epoch` on a stage's progress bar."""

KILLS = 5


def results(project):
    """Path to content's hash of every model, table and figure of merit."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for suffix in ("safetensors", "csv", "parquet", "metrics.json", "tallies.json")
        for path in sorted((project / "data").rglob(f"*{suffix}"))
        if "01_raw" not in path.parts
    }


def run_and_kill(project, parameters, bars, wait):
    """Start a run, kill it some time after one of the bars has appeared, and say which it was."""
    command = [sys.executable, "-m", "kedro", "run", parameters]
    shown = re.compile(rf"(?:^|[\r\n])({'|'.join(map(re.escape, bars))}) epoch".encode())
    with subprocess.Popen(
        command,
        cwd=project,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        printed = b""
        while not (bar := shown.search(printed)):
            if not (piece := os.read(process.stdout.fileno(), 65536)):
                return f"none of {bars}"
            printed += piece
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return bar[1].decode()


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Two copies of the project: in one the run has been made without a stop."""
    folder = tmp_path_factory.mktemp("killed")
    calm, killed = copy_project(folder / "calm"), copy_project(folder / "killed")
    kedro(calm, "run", f"--params={LENGTHS},runtime.tracking=false")
    return calm, killed


@pytest.mark.long
def test_a_run_that_is_killed_in_every_stage_ends_to_the_bit(projects):
    calm, project = projects
    parameters = f"--params={LENGTHS},runtime.tracking=false"
    moments = random.Random(7)
    left = list(BARS) * KILLS
    while left:
        left.remove(run_and_kill(project, parameters, set(left), moments.uniform(0, 0.3)))
    done = kedro(project, "run", parameters)
    assert "teachers epoch 1/" not in done.stdout  # that stage was over
    assert results(project) == results(calm)
    assert not list((project / "data").rglob("*.pt"))
    assert not list((project / "data").rglob("*.pending"))
