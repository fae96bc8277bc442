"""Comparisons that executors run, and their results on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mst_distill.benchmarks.arrays import Arrays
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import run_trials
from mst_distill.data.store import open_store, write_store
from toy_comparisons import METHODS, make_comparison_plan
from toy_jobs import Number
from toy_runs import make_run, vary

FEW = {name: METHODS[name] for name in ("baseline", "kd", "dml", "mst")}
COSTS = ["seconds", "peak_bytes"]


def quiet(job: Number) -> None:
    """Announce nothing."""


def make_comparison(folder: Path, executor: str, **changes: Any) -> Comparison:
    """A comparison on a store, as `kedro run` opens it: 6 teachers and 24 trials."""
    if not (folder / "store").is_dir():
        samples = make_run()[0].samples
        index = samples.index[["id", "group", "split"]]
        source = Arrays(samples.modalities, samples.labels, samples.classes, index, None)
        write_store(source, folder / "store")
    plan = make_comparison_plan(methods=FEW, seeds=2, **changes)
    plan = vary(plan, runtime={"executor": executor, "workers": 2})
    return Comparison(open_store(folder / "store"), plan, TrialLog(folder / executor))


def weights_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.safetensors"))
    }


def table_of(comparison: Comparison) -> pd.DataFrame:
    """All results, but for what the training cost."""
    return run_trials(comparison).drop(columns=COSTS)


def times_of_finished(folder: Path) -> dict[Path, int]:
    """When each result was written that is complete, that is, has its origin beside it.

    Unlike `rglob`, also while workers remove folders of checkpoints.
    """
    origin = ".origin.json"  # written after the result
    walk = os.walk(folder)  # passes over a folder that is gone
    files = (Path(at, name) for at, _, names in walk for name in names)
    results = [
        path.with_name(path.name.removesuffix(origin))
        for path in files
        if path.name.endswith(f".result.json{origin}")
    ]
    return {path: path.stat().st_mtime_ns for path in results}


PROGRAM = """
import sys
from pathlib import Path

from toy_executors import make_comparison
from mst_distill.compare.trials import run_trials

if __name__ == "__main__":
    run_trials(make_comparison(Path({folder!r}), {executor!r}))
"""


@contextmanager
def driver_of(folder: Path, executor: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a comparison in a process that is killed at the end of the context."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(folder=str(folder), executor=executor))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(program)], env=environment) as driver:
        try:
            yield driver
        finally:
            driver.kill()


def wait_for(driver: subprocess.Popen[bytes], folder: Path, results: int) -> None:
    """Wait until a driver has written so many results with their origins."""
    deadline = time.monotonic() + 240
    while len(times_of_finished(folder)) < results:
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
