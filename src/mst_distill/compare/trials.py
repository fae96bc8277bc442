"""The trials of a comparison: each method once with each teacher that it can use."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import pandas as pd

from mst_distill.artifacts.progress import progress
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.executors.base import WorkerDied
from mst_distill.compare.executors.choose import executor_of, measured_memory, share_of
from mst_distill.compare.trial_runner import Outcome, TrialJob, TrialRunner, open_worker
from mst_distill.compare.trial_store import Trial, TrialResult

log = logging.getLogger(__name__)


def run_trials(comparison: Comparison, tuning: pd.DataFrame | None = None) -> pd.DataFrame:
    """Run the trials for which the log has no result of the same origin, and return all results.

    A trial that fails is recorded with its error, and the next trial starts.

    Args:
        comparison: The comparison.
        tuning: The settings that were chosen, from `choose_settings`; by default the first ones.

    Returns:
        One row for each trial and selection criterion: the trial's attributes, ``selection``, the
        metrics on the held-out split, the costs and ``error``. A trial that failed has one row
        without metrics.

    Raises:
        ValueError, TypeError: See `Comparison.check`; raised before the first trial.
        RuntimeError: All trials failed; the message has the error of the first.
    """
    comparison.check()
    chosen = {} if tuning is None else chosen_settings(tuning)
    methods = comparison.plan.compare.methods
    planned = {
        trial: methods[trial.method].choices[chosen.get((trial.target, trial.title), 0)]
        for trials in comparison.trials().values()
        for trial in trials
    }
    results = list(results_of(comparison, planned, "trials").values())
    errors = [result.error for result in results if result.error]
    if errors and len(errors) == len(results):
        raise RuntimeError(f"all {len(results)} trials failed, the first with: {errors[0]}")
    return pd.DataFrame([row for result in results for row in _rows(result)])


def chosen_settings(tuning: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Return the number of the chosen setting by target and title, from `choose_settings`."""
    chosen = tuning[tuning["chosen"].astype(bool)]
    keys = zip(chosen["target"], chosen["title"], strict=True)
    return dict(zip(keys, map(int, chosen["setting"]), strict=True))


def results_of(
    comparison: Comparison, planned: Mapping[Trial, Mapping[str, Any]], title: str
) -> dict[Trial, TrialResult]:
    """Load the results of trials from the log, or run the trials, after the teachers they need.

    Args:
        comparison: The comparison.
        planned: The trials with the arguments of their methods.
        title: The title of the progress bar.
    """
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in planned:
        groups.setdefault((trial.target, trial.seed), []).append(trial)
    teachers = _teachers_of(comparison, groups)
    results: dict[Trial, TrialResult] = {}
    with progress(range(0), title, "trial", total=len(planned)) as bar:
        jobs = []
        for group, trials in groups.items():
            runner = TrialRunner(comparison, *group)
            for trial in trials:
                found = runner.plan(trial, planned[trial], teachers)
                if isinstance(found, TrialResult):
                    results[trial] = found
                    bar.update()
                else:
                    jobs.append(found)
        known = [*results.values()]
        for result in _run(comparison, jobs, known, title, bar):
            results[result.trial] = result
    return {trial: results[trial] for trial in planned}


def _teachers_of(
    comparison: Comparison, groups: Iterable[tuple[str, int]]
) -> dict[Trial, TrialResult]:
    """Load the results of the teachers that some groups need from the log, or train them."""
    teachers: dict[Trial, TrialResult] = {}
    jobs: dict[Trial, TrialJob] = {}
    for group in groups:
        for job in TrialRunner(comparison, *group).teachers():
            if job.trial in teachers or job.trial in jobs:
                continue
            if found := comparison.log.find(job.trial, job.origin):
                teachers[job.trial] = found
            else:
                jobs[job.trial] = job
    if jobs:
        with progress(range(0), "teachers", "teacher", total=len(jobs)) as bar:
            known = [*teachers.values()]
            for result in _run(comparison, [*jobs.values()], known, "teachers", bar):
                teachers[result.trial] = result
    return teachers


def _run(
    comparison: Comparison,
    jobs: Sequence[TrialJob],
    known: Iterable[TrialResult],
    title: str,
    bar: Any,
) -> Iterator[TrialResult]:
    """Run jobs, and record each in the log when it ends.

    If the share of a GPU is measured, the first job of each method has a whole one.

    Args:
        comparison: The comparison.
        jobs: The jobs.
        known: The results of others like them.
        title: The title of the progress bar.
        bar: The progress bar.
    """
    runtime = comparison.plan.runtime
    share = 1 if runtime.gpu_share == "auto" else runtime.gpu_share
    if memory := measured_memory(runtime):
        peaks = {_kind(of.trial): of.cost.get("peak_bytes", 0) for of in known if of.cost}
        alone: dict[tuple[str, str], TrialJob] = {}
        for job in jobs:
            if _kind(job.trial) not in peaks:
                alone.setdefault(_kind(job.trial), job)
        for result in _run_with(comparison, 1, [*alone.values()], title, bar):
            peaks[_kind(result.trial)] = result.cost.get("peak_bytes", 0)
            yield result
        jobs = [job for job in jobs if job is not alone.get(_kind(job.trial))]
        share = share_of(int(max(peaks.values(), default=memory)), memory)
        log.info("Each of the %s gets %g of a GPU", title, share)
    yield from _run_with(comparison, share, jobs, title, bar)


def _kind(trial: Trial) -> tuple[str, str]:
    return trial.target, trial.title


def _run_with(
    comparison: Comparison, share: float, jobs: Sequence[TrialJob], title: str, bar: Any
) -> Iterator[TrialResult]:
    def announce(job: TrialJob) -> None:
        bar.set_description(f"{title}: {job.title}")

    if not jobs:
        return
    make_work = partial(open_worker, comparison.reopen())
    folder = comparison.log.for_executors
    with (
        executor_of(comparison.plan.runtime, make_work, folder, share) as executor,
        closing(executor.run(jobs, announce)) as outcomes,
    ):
        for job, outcome in outcomes:
            if isinstance(outcome, WorkerDied):
                outcome = Outcome(TrialResult(job.trial, error=f"WorkerDied: {outcome.reason}"))
            if outcome.result.error:
                log.error("%s failed: %s%s", job.title, outcome.result.error, outcome.traceback)
            comparison.log.record(outcome.result, job.origin, outcome.bundle)
            bar.update()
            yield outcome.result


def _rows(result: TrialResult) -> Iterator[dict[str, Any]]:
    trial = result.trial
    key = {
        "target": trial.target,
        "title": trial.title,
        "method": trial.method,
        "teacher": trial.teacher,
        "seed": trial.seed,
    }
    for criterion, metrics in result.metrics.items():
        yield {**key, "selection": criterion, **metrics, **result.cost, "error": ""}
    if result.error:
        yield {**key, "selection": "", "error": result.error}
