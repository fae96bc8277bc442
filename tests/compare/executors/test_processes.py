"""Several processes give the results of one, also if some of them die."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from mst_distill.artifacts.signals import Interrupted, listening
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.executors.base import ATTEMPTS, WorkerDied
from mst_distill.compare.executors.processes import Processes
from mst_distill.compare.trials import run_trials
from toy_executors import (
    COSTS,
    driver_of,
    make_comparison,
    quiet,
    times_of_finished,
    wait_for,
    weights_of,
)
from toy_jobs import Number, make_square


def test_processes_apply_the_function_to_every_job() -> None:
    begun: list[int] = []
    jobs = [Number(value) for value in range(7)]
    with Processes(make_square, 2) as executor:
        done = list(executor.run(jobs, lambda job: begun.append(job.value)))
        (again,) = executor.run([Number(9)], quiet)
    assert sorted((job.value, result[0]) for job, result in done) == [
        (value, value**2) for value in range(7)
    ]
    assert sorted(begun) == list(range(7))
    pids = {pid for _, (_, pid) in done}
    assert os.getpid() not in pids
    assert len(pids) == 2
    assert again[1][1] in pids  # the processes stay until the end of the context


def test_a_job_is_begun_again_if_its_process_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(tmp_path)
    jobs = [Number(1, folder, kills=1), Number(2, folder), Number(3, folder, kills=9)]
    with Processes(make_square, 2) as executor:
        done = {job.value: result for job, result in executor.run(jobs, quiet)}
    assert done[1][0] == 1
    assert done[2][0] == 4
    assert isinstance(done[3], WorkerDied)
    assert len(list(tmp_path.glob("1-*"))) == 2
    assert len(list(tmp_path.glob("2-*"))) == 1  # the others are not disturbed
    assert len(list(tmp_path.glob("3-*"))) == ATTEMPTS
    assert "job 3 is begun again, since its process has ended: attempt 3 of 3" in caplog.text


def test_an_error_of_the_function_ends_the_run() -> None:
    with Processes(make_square, 1) as executor, pytest.raises(ArithmeticError, match="no negative"):
        list(executor.run([Number(-1)], quiet))


def test_a_signal_ends_the_processes(tmp_path: Path) -> None:
    jobs = [Number(value, str(tmp_path)) for value in range(40)]
    done: list[int] = []

    def run() -> None:
        with Processes(make_square, 2) as executor:
            for _, (_, pid) in executor.run(jobs, quiet):
                done.append(pid)
                if len(done) == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

    with listening(), pytest.raises(Interrupted):
        run()
    assert len(done) < 40
    for pid in done:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.long
def test_a_comparison_in_processes_equals_one_in_this_process_to_the_bit(tmp_path: Path) -> None:
    tables = {}
    for executor in ("sequential", "processes"):
        comparison = make_comparison(tmp_path, executor)
        assert comparison.samples.folder == tmp_path / "store"
        tables[executor] = run_trials(comparison).drop(columns=COSTS)
    pd.testing.assert_frame_equal(tables["processes"], tables["sequential"], check_exact=True)
    assert len(tables["processes"][["target", "seed", "title"]].drop_duplicates()) == 24
    one, several = (weights_of(tmp_path / executor) for executor in tables)
    assert one == several
    assert len(one) == 24 + 6
    for executor in tables:
        assert not list((tmp_path / executor).rglob("*.pt"))


@pytest.mark.long
def test_a_comparison_whose_driver_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    run_trials(make_comparison(tmp_path, "sequential"))
    with driver_of(tmp_path, "processes") as driver:
        wait_for(driver, tmp_path / "processes", 9)
    finished = times_of_finished(tmp_path / "processes")
    assert 9 <= len(finished) < 30
    run_trials(make_comparison(tmp_path, "processes"))
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in finished.items())
    assert weights_of(tmp_path / "sequential") == weights_of(tmp_path / "processes")


@pytest.mark.long
def test_a_trial_whose_process_always_dies_does_not_stop_the_others(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, "processes", targets="image")
    killer = {"type": "toy_comparisons.Killing"}
    compare = comparison.plan.compare.model_copy(
        update={
            "seeds": 1,
            "methods": {
                **{name: comparison.plan.compare.methods[name] for name in ("baseline", "kd")},
                "killing": type(comparison.plan.compare.methods["kd"]).model_validate(killer),
            },
        }
    )
    plan = comparison.plan.model_copy(update={"compare": compare})
    table = run_trials(Comparison(comparison.samples, plan, comparison.log))
    failed = table[table["error"] != ""]
    assert failed["title"].tolist() == ["killing <- audio"]
    assert failed["error"].tolist() == ["WorkerDied: its process has ended 3 times"]
    record = tmp_path / "processes/image/seed-0/killing-audio.result.json"
    assert json.loads(record.read_text())["error"]
    assert set(table.loc[table["error"] == "", "method"]) == {"baseline", "kd"}
