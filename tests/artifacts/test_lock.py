"""Two runs never write to the same folder; the lock of a killed process is released."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from mst_distill.artifacts.lock import holding, one_at_a_time
from projects import copy_project, run_session

HOLD = """
import sys, time
from pathlib import Path
from mst_distill.artifacts.lock import holding, one_at_a_time
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

WAIT = """
import sys
from pathlib import Path
from mst_distill.artifacts.lock import one_at_a_time
from mst_distill.artifacts.signals import Interrupted, listening
with listening():
    print("waiting", flush=True)
    try:
        with one_at_a_time(Path(sys.argv[1]), "waiting"):
            sys.exit(1)
    except Interrupted:
        sys.exit(7)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "held")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_error_for_a_locked_folder_names_the_process(other, tmp_path):
    with (
        pytest.raises(
            BlockingIOError, match=f"process {other.pid} is writing the results of this run"
        ),
        holding(tmp_path / "held"),
    ):
        pass
    with holding(tmp_path / "free"):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    for _ in range(2):
        with holding(tmp_path / "held"):
            (pid_file,) = (tmp_path / "held").glob("*.pid")
            assert pid_file.read_text() == str(os.getpid())


@pytest.mark.skipif(os.name != "posix", reason="Windows makes no links without a privilege")
@pytest.mark.parametrize("name", [".lock", ".lock.pid"])
def test_a_link_in_the_place_of_a_lock_does_not_empty_its_victim(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / name).symlink_to(victim)
    with contextlib.suppress(OSError), holding(tmp_path / "held"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_a_signal_ends_the_wait_for_another_process(tmp_path):
    path = tmp_path / "samples"
    command = [sys.executable, "-c", WAIT, str(path)]
    with one_at_a_time(path), subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 7
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="Windows locks in another way")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("lock", [holding, one_at_a_time])
def test_storage_without_locks_is_named(tmp_path, monkeypatch, number, lock):
    def flock(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(OSError, match="Mount the storage") as raised,
        lock(tmp_path / "a"),
    ):
        pass
    assert raised.value.errno == number
    assert raised.value.filename == str(tmp_path / "a" if lock is holding else tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="Windows locks in another way")
def test_a_system_without_locks_has_files_in_their_place(tmp_path, monkeypatch):
    def flock(*_args):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        holding(tmp_path / "held"),
        pytest.raises(BlockingIOError, match="is writing the results"),
        holding(tmp_path / "held"),
    ):
        pass
    with holding(tmp_path / "held"):
        pass


SHORT = {"teachers": {"epochs": 1}, "limit": 200}
HELD = f"process {os.getpid()} is writing the results of this run"


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "project")


def test_a_run_in_progress_is_locked_and_a_run_of_another_name_is_not(project):
    run = "digits/heldout-200/image/seed-0/main"
    with holding(project / "data/06_models" / run):
        run_session(project, "ingest", **SHORT)  # the sample store has a lock of its own
        started = time.perf_counter()
        with pytest.raises(BlockingIOError, match=HELD):
            run_session(project, "teachers", **SHORT)
        assert time.perf_counter() - started < 30
        run_session(project, "ingest", run="another", **SHORT)
        run_session(project, "teachers", run="another", **SHORT)
    run_session(project, "teachers", **SHORT)
    run_session(project, "teachers", **SHORT)  # a finished run holds no lock
    with pytest.raises(ValueError, match=r"'members' is out of .*epochs was 1 and is 2"):
        run_session(project, "masks", **{**SHORT, "teachers": {"epochs": 2}})
    with holding(project / "data/06_models" / run):  # nor does a run that was rejected
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
def test_every_pipeline_locks_the_folders_that_it_writes_to(project, pipeline, folder):
    with holding(project / "data" / folder), pytest.raises(BlockingIOError, match=HELD):
        run_session(project, pipeline, **SHORT)
