"""Two runs never write to one folder; a dead one's lock is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mst_distill.artifacts.lock import holding
from projects import copy_project, run_session

HOLD = """
import sys, time
from pathlib import Path
from mst_distill.artifacts.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which holds a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "held")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_with_the_first_one_s_pid(other, tmp_path):
    with (
        pytest.raises(BlockingIOError, match=f"process {other.pid} is making this run"),
        holding(tmp_path / "held"),
    ):
        pass
    with holding(tmp_path / "free"):
        pass


def test_a_dead_one_s_lock_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    for _ in range(2):
        with holding(tmp_path / "held"):
            (told,) = (tmp_path / "held").glob("*.pid")
            assert told.read_text() == str(os.getpid())


SHORT = {"teachers": {"epochs": 1}, "limit": 200}
HELD = f"process {os.getpid()} is making this run"


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "project")


def test_a_run_that_another_makes_is_refused_and_one_beside_it_is_not(project):
    run = "digits/heldout-200/image/seed-0/main"
    with holding(project / "data/06_models" / run):
        run_session(project, "ingest", **SHORT)  # what all runs share has a lock of its own
        started = time.perf_counter()
        with pytest.raises(BlockingIOError, match=HELD):
            run_session(project, "teachers", **SHORT)
        assert time.perf_counter() - started < 30
        run_session(project, "ingest", run="beside", **SHORT)
        run_session(project, "teachers", run="beside", **SHORT)
    run_session(project, "teachers", **SHORT)
    run_session(project, "teachers", **SHORT)  # a run that is over holds nothing
    with pytest.raises(ValueError, match=r"'members' is not .*epochs was 1 and is 2"):
        run_session(project, "masks", **{**SHORT, "teachers": {"epochs": 2}})
    with holding(project / "data/06_models" / run):  # one that never began holds nothing either
        pass


@pytest.mark.parametrize(
    ("pipeline", "folder"),
    [
        ("ingest", "08_reporting/digits/heldout-200/image/seed-0/main"),
        ("evaluate", "07_model_output/digits/heldout-200/image/seed-0/main"),
        ("diagnose", "08_reporting/digits/heldout-200/image/seed-0/main"),
        ("compare", "06_models/digits/heldout-200/compare/main"),
        ("compare", "07_model_output/digits/heldout-200/compare/main"),
        ("aggregate", "08_reporting/aggregate/main"),
    ],
)
def test_whatever_writes_holds_where_it_writes(project, pipeline, folder):
    with holding(project / "data" / folder), pytest.raises(BlockingIOError, match=HELD):
        run_session(project, pipeline, **SHORT)
