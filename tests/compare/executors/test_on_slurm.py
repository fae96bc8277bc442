"""Jobs of Slurm give the results of one process, also if a node or the driver dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from mst_distill.artifacts.signals import Interrupted, listening
from mst_distill.compare.executors.base import ATTEMPTS, WorkerDied
from slurm_cluster import SlurmCluster, missing, slurm_cluster
from toy_executors import (
    driver_of,
    make_comparison,
    quiet,
    table_of,
    times_of_finished,
    wait_for,
    weights_of,
)
from toy_jobs import Number, make_square

pytest.importorskip("submitit", reason="needs submitit: make engines")
if absent := missing():
    pytest.skip(f"needs Slurm, without {', '.join(absent)}", allow_module_level=True)
SlurmJobs = pytest.importorskip("mst_distill.compare.executors.on_slurm").SlurmJobs
pytestmark = pytest.mark.long

OPTIONS = {"time": 30, "cpus_per_task": 1}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with slurm_cluster(folder) as running:
        monkeypatch.setenv("SLURM_CONF", str(running.conf))
        yield running


@pytest.mark.usefixtures("cluster")
def test_jobs_of_slurm_are_begun_again_if_they_die(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    jobs = [Number(1, str(folder), kills=1), Number(3, str(folder), kills=9)]
    jobs += [Number(value, str(folder)) for value in (2, 4, 5, 6, 8, 10, 12)]
    begun: list[int] = []
    with SlurmJobs(make_square, tmp_path / "jobs", 2, 1, OPTIONS) as executor:
        done = {
            job.value: result
            for job, result in executor.run(jobs, lambda job: begun.append(job.value))
        }
    died = done.pop(3)
    assert isinstance(died, WorkerDied)
    assert {value: square for value, (square, _) in done.items()} == {
        value: value**2 for value in (1, 2, 4, 5, 6, 8, 10, 12)
    }
    # The first job of Slurm died of job 1, before job 3 began.
    assert len(list(folder.glob("3-*"))) == ATTEMPTS - 1
    assert len(list(folder.glob("2-*"))) == 1  # the others are not disturbed
    assert "job 3 is begun again, since its process has ended: attempt 3 of 3" in caplog.text
    assert set(begun) == {job.value for job in jobs}
    # What is left are the log files of what died, which the message names.
    assert Path(died.reason.rsplit("see ")[-1]).is_file()
    assert not list((tmp_path / "jobs/results").iterdir())
    left = [path.name for path in (tmp_path / "jobs").iterdir() if path.is_file()]
    assert all("_log." in name for name in left)


@pytest.mark.usefixtures("cluster")
def test_an_error_in_a_job_and_wrong_options_end_the_run(tmp_path: Path) -> None:
    with (
        SlurmJobs(make_square, tmp_path, 1, 1, OPTIONS) as executor,
        pytest.raises(ArithmeticError, match="no negative"),
    ):
        list(executor.run([Number(-1)], quiet))
    with pytest.raises(ValueError, match=r"runtime\.slurm: .*partitions.*\n.*Valid"):
        SlurmJobs(make_square, tmp_path, 1, 1, {"partitions": "gpu"})
    with (
        SlurmJobs(make_square, tmp_path, 1, 1, {**OPTIONS, "partition": "absent"}) as executor,
        pytest.raises(ValueError, match=r"does not take the jobs, see .*invalid partition"),
    ):
        list(executor.run([Number(1)], quiet))


@pytest.mark.usefixtures("cluster")
def test_jobs_of_slurm_outlive_their_driver(tmp_path: Path) -> None:
    jobs = [Number(value, str(tmp_path), seconds=value) for value in range(6)]

    def run() -> None:
        with SlurmJobs(make_square, tmp_path / "jobs", 2, 2, OPTIONS) as executor:
            for job, _ in executor.run(jobs, quiet):
                done.append(job.value)
                os.kill(os.getpid(), signal.SIGTERM)

    done: list[int] = []
    with listening(), pytest.raises(Interrupted):
        run()
    assert len(done) == 1
    with SlurmJobs(make_square, tmp_path / "jobs", 2, 2, OPTIONS) as executor:
        rest = [job for job in jobs if job.value not in done]
        again = {job.value: square for job, (square, _) in executor.run(rest, quiet)}
    assert again == {job.value: job.value**2 for job in rest}
    for job in jobs:
        assert len(list(tmp_path.glob(f"{job.value}-*"))) == 1


def test_a_comparison_on_slurm_equals_one_in_this_process_to_the_bit(
    tmp_path: Path, cluster: SlurmCluster
) -> None:
    """A node is lost, then the driver; the same command goes on."""
    expected = table_of(make_comparison(tmp_path, "sequential"))
    with driver_of(tmp_path, "slurm") as driver:
        wait_for(driver, tmp_path / "slurm", 2)
        cluster.kill_node("n1")
        wait_for(driver, tmp_path / "slurm", 9)
    finished = times_of_finished(tmp_path / "slurm")
    assert 9 <= len(finished) < 30
    table = table_of(make_comparison(tmp_path, "slurm"))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in finished.items())
    assert weights_of(tmp_path / "sequential") == weights_of(tmp_path / "slurm")
