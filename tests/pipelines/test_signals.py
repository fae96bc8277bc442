"""SIGINT, SIGTERM and SIGHUP end a run in an orderly way; a failure of MLflow does not end it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from mlflow.tracking import MlflowClient

from mst_distill.artifacts.progress import progress
from mst_distill.artifacts.signals import Interrupted, check, listening
from projects import ENVIRONMENT, copy_project, kedro, run_session

PARAMETERS = "--params=teachers.epochs=200,masks.epochs=1,route.epochs=1,limit=300,masks.factor=10"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project."""
    return copy_project(tmp_path_factory.mktemp("signals") / "project")


OTHERS = [pytest.param(other, marks=pytest.mark.long) for other in (signal.SIGINT, signal.SIGHUP)]
"""Signals that are handled as SIGTERM is; each whole run takes half a minute."""


@pytest.mark.parametrize("signum", [signal.SIGTERM, *OTHERS])
def test_a_signal_ends_a_run_at_the_next_step_and_leaves_a_checkpoint(project, signum):
    command = [sys.executable, "-m", "kedro", "run", "--pipeline=teachers", PARAMETERS]
    run_session(project, "ingest", limit=300)
    with subprocess.Popen(
        command,
        cwd=project,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        printed = b""
        while not re.search(rb"teachers epoch ([2-9]|\d\d+)/", printed):
            chunk = os.read(process.stdout.fileno(), 65536)
            assert chunk, printed.decode()
            printed += chunk
        process.send_signal(signum)
        rest = process.stdout.read()
    assert process.returncode == 128 + signum, (printed + rest).decode()
    assert f"{signum.name} asked the run to end" in (printed + rest).decode()
    assert list((project / "data/06_models").rglob("teachers.pt"))
    assert not list((project / "data/06_models").rglob("*.safetensors"))

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill").experiment_id
    assert client.search_runs([experiment])[0].info.status == "KILLED"


SLOW_SOURCE = """
import time

import numpy as np
import pandas as pd

from mst_distill.benchmarks.source import SampleSource


class Slow(SampleSource):
    classes = ("a", "b")
    files = ()

    def __init__(self, protocol):
        ids = [f"s{row:02d}" for row in range(40)]
        splits = ["train"] * 20 + ["valid"] * 10 + ["test"] * 10
        self.index = pd.DataFrame({"id": ids, "group": ids, "split": splits})
        self.index["label"] = [row % 2 for row in range(40)]

    def read(self, part):
        print("reading", flush=True)
        time.sleep(0.1 * len(part))
        values = np.random.default_rng(len(part)).normal(size=(len(part), 3))
        return {"image": values.astype("float32"), "audio": values.astype("float32")}
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, OTHERS[0]])
def test_a_signal_ends_a_run_that_builds_its_samples(tmp_path, signum):
    """The store is built while Kedro saves it, so that Kedro wraps what ends the build."""
    project = copy_project(tmp_path / "project")
    (project / "slow_source.py").write_text(SLOW_SOURCE)
    (project / "conf/local/parameters.yml").write_text(
        "benchmark: {type: slow_source.Slow, arguments: {}}"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "kedro", "run", "--pipeline=ingest"],
        cwd=project,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        printed = b""
        while printed.count(b"reading") < 2:
            chunk = os.read(process.stdout.fileno(), 65536)
            assert chunk, printed.decode()
            printed += chunk
        process.send_signal(signum)
        rest = process.stdout.read()
    assert process.returncode == 128 + signum, (printed + rest).decode()
    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mst-distill").experiment_id
    assert client.search_runs([experiment])[0].info.status == "KILLED"


@pytest.mark.parametrize(
    "content",
    [pytest.param(b"no database", marks=pytest.mark.long), None],
    ids=["damaged", "unwritable"],
)
def test_a_failure_of_mlflow_is_one_warning_and_the_run_succeeds(tmp_path, content):
    project = copy_project(tmp_path / "project")
    if content is None:
        (project / "mlflow.db").mkdir()
    else:
        (project / "mlflow.db").write_bytes(content)
    short = "--params=limit=300,teachers.epochs=1,masks.factor=10"
    done = kedro(project, "run", "--pipelines=ingest,teachers", short)
    assert done.stdout.count("MLflow tracks this run no further") == 1
    (history,) = (project / "data/08_reporting").rglob("teachers_history.csv")
    assert "valid_accuracy_image" in history.read_text()


def test_a_signal_ends_a_progress_bar_after_the_current_step():
    done = []

    def steps():
        for step in progress(range(5), "steps", "step"):
            if step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            done.append(step)

    before = signal.getsignal(signal.SIGTERM)
    with listening(), pytest.raises(Interrupted, match="SIGTERM asked the run to end"):
        steps()
    assert done == [0, 1, 2]
    assert signal.getsignal(signal.SIGTERM) is before
    check()  # does not raise: the signal has been handled


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal, time\n"
        "from mst_distill.artifacts.signals import listening\n"
        "with listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGTERM
