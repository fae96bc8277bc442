"""Jobs in this process."""

from __future__ import annotations

import os

from mst_distill.compare.executors.base import Sequential
from toy_executors import quiet
from toy_jobs import Number, make_square


def test_a_sequence_of_jobs_is_run_in_this_process_in_order() -> None:
    jobs = [Number(value) for value in range(7)]
    with Sequential(make_square) as executor:
        done = list(executor.run(jobs, quiet))
    assert [(job.value, *result) for job, result in done] == [
        (value, value**2, os.getpid()) for value in range(7)
    ]
