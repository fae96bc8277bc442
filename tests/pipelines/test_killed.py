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
BARS = (
    "teachers epoch",
    "masks epoch",
    "route epoch",
    "control (route) epoch",
)
"""What a run's progress bars begin with."""

METHODS = """
compare:
  seeds: 1
  targets: audio
  methods:
    kd: {type: mst_distill.compare.methods.kd.KD}
    c2kd: {type: mst_distill.compare.methods.c2kd.C2KD}
"""
COMPARED = ("teacher multimodal epoch", "KD audio <- image epoch", "C2KD audio <- image epoch")

KILLS = 5

WHOLE = ("safetensors", "csv", "parquet", "metrics.json", "tallies.json")
"""How models, tables and figures of merit end."""


def results(project, suffixes=WHOLE):
    """Path to content's hash of what a run has left."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for suffix in suffixes
        for path in sorted((project / "data").rglob(f"*{suffix}"))
        if "01_raw" not in path.parts
    }


def run_and_kill(project, arguments, bars, wait):
    """Start a run, kill it some time after one of the bars has appeared, and say which it was."""
    command = [sys.executable, "-m", "kedro", *arguments]
    shown = re.compile(rf"(?:^|[\r\n])({'|'.join(map(re.escape, bars))})".encode())
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


def kill_and_finish(project, bars, *arguments):
    """Kill a run at each of the bars so many times, then let it end."""
    moments = random.Random(7)
    left = list(bars) * KILLS
    while left:
        left.remove(run_and_kill(project, arguments, set(left), moments.uniform(0, 0.3)))
    done = kedro(project, *arguments)
    assert not list((project / "data").rglob("*.pt"))
    assert not list((project / "data").rglob("*.pending"))
    return done.stdout


@pytest.fixture
def projects(tmp_path):
    """Two copies of the project: in one nothing is killed."""
    return copy_project(tmp_path / "calm"), copy_project(tmp_path / "killed")


@pytest.mark.long
def test_a_run_that_is_killed_in_every_stage_ends_to_the_bit(projects):
    calm, killed = projects
    run = ("run", f"--params={LENGTHS},runtime.tracking=false")
    kedro(calm, *run)
    printed = kill_and_finish(killed, BARS, *run)
    assert "teachers epoch 1/" not in printed  # that stage was over
    assert results(killed) == results(calm)
    assert len(results(killed)) > 20


@pytest.mark.long
def test_a_comparison_that_is_killed_in_its_trials_ends_to_the_bit(projects):
    for project in projects:
        (project / "conf/local/parameters.yml").write_text(METHODS)
    calm, killed = projects
    run = ("run", "--pipeline=compare", f"--params={LENGTHS},runtime.tracking=false")
    kedro(calm, *run)
    kill_and_finish(killed, COMPARED, *run)
    assert results(killed, ["safetensors"]) == results(calm, ["safetensors"])
    assert len(results(killed, ["safetensors"])) == 3 + 2  # students and teachers
