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
BARS = ("teachers", "masks", "route", r"control \(route\)")
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


def run_and_kill(project, parameters, bar, wait):
    """Start a run, kill it some time after a bar has appeared, and say whether it was killed."""
    command = [sys.executable, "-m", "kedro", "run", parameters]
    with subprocess.Popen(
        command,
        cwd=project,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        printed = b""
        while not re.search(rb"(^|[\r\n])" + bar.encode() + rb" epoch", printed):
            if not (piece := os.read(process.stdout.fileno(), 65536)):
                return False
            printed += piece
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Two copies of the project: in one the run has been made without a stop."""
    folder = tmp_path_factory.mktemp("killed")
    calm, killed = copy_project(folder / "calm"), copy_project(folder / "killed")
    kedro(calm, "run", f"--params={LENGTHS},runtime.tracking=false")
    return calm, killed


def test_a_run_that_is_killed_in_every_stage_ends_to_the_bit(projects):
    calm, project = projects
    parameters = f"--params={LENGTHS},runtime.tracking=false"
    moments = random.Random(7)
    for bar in BARS:
        for _ in range(KILLS):
            assert run_and_kill(project, parameters, bar, moments.uniform(0, 0.5))
    done = kedro(project, "run", parameters)
    assert "teachers epoch 1/" not in done.stdout  # that stage was over
    assert results(project) == results(calm)
    assert not list((project / "data").rglob("*.pt"))
    assert not list((project / "data").rglob("*.pending"))
