"""Two runs never write to one folder; a dead one's lock is taken over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mst_distill.run_lock import FILE, RunLock
from projects import copy_project, run_session

HOLD = """
import sys, time
from pathlib import Path
from mst_distill.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
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
    with pytest.raises(BlockingIOError, match=f"process {other.pid} is making this run"):
        RunLock(tmp_path / "held")
    RunLock(tmp_path / "free").release()


def test_a_dead_one_s_lock_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / "held" / FILE).read_text() == str(other.pid)
    lock = RunLock(tmp_path / "held")
    assert (tmp_path / "held" / FILE).read_text() == str(os.getpid())
    lock.release()
    RunLock(tmp_path / "held").release()


def test_a_run_that_another_makes_is_refused_and_one_beside_it_is_not(tmp_path):
    project = copy_project(tmp_path / "project")
    held = RunLock(project / "data/06_models/digits/heldout-all/image/seed-0/main")
    short = {"teachers": {"epochs": 1}, "limit": "all"}
    run_session(project, "ingest", **short)  # what all runs share has a lock of its own
    started = time.perf_counter()
    with pytest.raises(BlockingIOError, match=f"process {os.getpid()} is making this run"):
        run_session(project, "teachers", **short)
    assert time.perf_counter() - started < 30
    run_session(project, "teachers", run="beside", **short)
    held.release()
    run_session(project, "teachers", **short)
    run_session(project, "teachers", **short)  # a run that is over holds nothing
