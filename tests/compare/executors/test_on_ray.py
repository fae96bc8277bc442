"""Workers of Ray give the results of one process, also if a worker or a node dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from mst_distill.artifacts.signals import Interrupted, listening
from mst_distill.compare.executors.base import ATTEMPTS, WorkerDied
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

ray = pytest.importorskip("ray", reason="needs ray: make engines")
cluster_utils = pytest.importorskip("ray.cluster_utils")
RayWorkers = pytest.importorskip("mst_distill.compare.executors.on_ray").RayWorkers
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one processor each; the node of the driver has none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        running = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(2):
            running.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", running.address)
        yield running
        ray.shutdown()
        running.shutdown()


@pytest.mark.usefixtures("cluster")
def test_jobs_of_ray_are_begun_again_if_their_process_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(tmp_path)
    jobs = [Number(1, folder, kills=1), Number(2, folder), Number(3, folder, kills=9)]
    before = signal.getsignal(signal.SIGTERM)
    with RayWorkers(make_square, None, 1, 0) as executor:
        assert signal.getsignal(signal.SIGTERM) is before
        done = {job.value: result for job, result in executor.run(jobs, quiet)}
        with pytest.raises(ArithmeticError, match=r"^no negative number$"):
            list(executor.run([Number(-1)], quiet))
    assert done[1][0] == 1
    assert done[2][0] == 4
    assert isinstance(done[3], WorkerDied)
    assert len(list(tmp_path.glob("1-*"))) == 2
    assert len(list(tmp_path.glob("2-*"))) == 1
    assert len(list(tmp_path.glob("3-*"))) == ATTEMPTS
    assert "job 3 is begun again, since its process has ended: attempt 3 of 3" in caplog.text


@pytest.mark.usefixtures("cluster")
def test_a_signal_ends_the_workers_of_ray(tmp_path: Path) -> None:
    jobs = [Number(value, str(tmp_path)) for value in range(40)]
    pids: list[int] = []

    def run() -> None:
        with RayWorkers(make_square, 2, 1, 0) as executor:
            for _, (_, pid) in executor.run(jobs, quiet):
                pids.append(pid)
                os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(Interrupted):
        run()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_no_node_has_room_for_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no node .* 3 processors of one worker: .*'CPU': 2"):
        RayWorkers(make_square, None, 3, 0.5)


def test_a_comparison_on_ray_equals_one_in_this_process_to_the_bit(
    tmp_path: Path, cluster: Any
) -> None:
    """A worker dies, then a node, then the driver; the same command goes on."""
    expected = table_of(make_comparison(tmp_path, "sequential"))
    results = tmp_path / "ray"
    with driver_of(tmp_path, "ray") as driver:
        wait_for(driver, results, 2)
        kill_a_worker()
        wait_for(driver, results, 5)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        wait_for(driver, results, 9)
    finished = times_of_finished(results)
    assert 9 <= len(finished) < 30
    table = table_of(make_comparison(tmp_path, "ray"))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in finished.items())
    assert weights_of(tmp_path / "sequential") == weights_of(results)


def kill_a_worker() -> None:
    """Kill the process of one actor; the nodes are processes that this one has begun."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::_Worker"):
                process.kill()
                return
    raise AssertionError("no worker was found")
