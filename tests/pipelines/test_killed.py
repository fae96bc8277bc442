"""A `kedro run` that is killed repeatedly has the results of an uninterrupted run."""

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
    "baseline (route) epoch",
)
"""The beginnings of the titles of a run's progress bars."""

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

RESULTS = ("safetensors", "csv", "parquet", "metrics.json", "metric_counts.json")
"""The ends of the names of the files with models, tables and metrics."""


def results(project, suffixes=RESULTS):
    """Path of each file that a run has written, to the hash of its content."""
    return {
        str(path.relative_to(project)): hashlib.sha256(path.read_bytes()).hexdigest()
        for suffix in suffixes
        for path in sorted((project / "data").rglob(f"*{suffix}"))
        if "01_raw" not in path.parts
    }


def run_and_kill(project, arguments, bars, wait):
    """Start a run and kill it `wait` seconds after one of the bars appears; returns that bar."""
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
            if not (chunk := os.read(process.stdout.fileno(), 65536)):
                return f"none of {bars}"
            printed += chunk
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return bar[1].decode()


def kill_and_finish(project, bars, *arguments):
    """Kill a run `KILLS` times at each of the bars, then run it to the end; returns its output."""
    rng = random.Random(7)
    remaining = list(bars) * KILLS
    while remaining:
        remaining.remove(run_and_kill(project, arguments, set(remaining), rng.uniform(0, 0.3)))
    done = kedro(project, *arguments)
    assert not list((project / "data").rglob("*.pt"))
    assert not list((project / "data").rglob("*.pending"))
    return done.stdout


@pytest.fixture
def projects(tmp_path):
    """Two copies of the project, for an uninterrupted run and for one that is killed."""
    return copy_project(tmp_path / "uninterrupted"), copy_project(tmp_path / "killed")


@pytest.mark.long
def test_a_run_killed_in_every_stage_has_the_same_results_to_the_bit(projects):
    uninterrupted, killed = projects
    run = ("run", f"--params={LENGTHS},runtime.tracking=false")
    kedro(uninterrupted, *run)
    printed = kill_and_finish(killed, BARS, *run)
    assert "teachers epoch 1/" not in printed  # that stage was finished before
    assert results(killed) == results(uninterrupted)
    assert len(results(killed)) > 20


@pytest.mark.long
def test_a_comparison_killed_in_its_trials_has_the_same_results_to_the_bit(projects):
    for project in projects:
        (project / "conf/local/parameters.yml").write_text(METHODS)
    uninterrupted, killed = projects
    run = ("run", "--pipeline=compare", f"--params={LENGTHS},runtime.tracking=false")
    kedro(uninterrupted, *run)
    kill_and_finish(killed, COMPARED, *run)
    assert results(killed, ["safetensors"]) == results(uninterrupted, ["safetensors"])
    assert len(results(killed, ["safetensors"])) == 3 + 2 + 1  # students, teachers and readers
