"""Each method chooses one of its settings by validation, on seeds that are not reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from mst_distill.compare.comparison import Comparison
from mst_distill.compare.trial_store import Trial, TrialResult
from mst_distill.compare.trials import results_of
from mst_distill.parameters import metric_name
from mst_distill.training.selection import criteria, metric_in

log = logging.getLogger(__name__)

COLUMNS = {
    "target": str,
    "title": str,
    "method": str,
    "setting": int,
    "arguments": str,
    "seeds": int,
    "valid_accuracy": float,
    "valid_ce": float,
    "chosen": bool,
}
"""The columns of the table of settings, with their types. If another metric decides, its column is
in the place of the accuracy."""


def choose_settings(comparison: Comparison) -> pd.DataFrame:
    """Train each method with each of its settings on the seeds of tuning, and choose one of each.

    A choice is that of a method, a teacher and a student. It is made by the mean validation metrics
    over the seeds, ranked as the run's own criterion ranks epochs; no test sample is read. Methods
    with a single setting have nothing to choose.

    Returns:
        A row for each target, title and setting, with `COLUMNS`; ``seeds`` is the number of seeds
        on which it was trained. Without tuning, there is a row for the first setting of each.

    Raises:
        ValueError, TypeError: See `Comparison.check`.
    """
    comparison.check()
    planned = {
        replace(trial, seed=seed, setting=number): arguments
        for seed in comparison.tuning_seeds
        for titles in _titles(comparison).values()
        for trial, number, arguments in _settings_of(comparison, titles)
    }
    results: dict[tuple[str, str, int | None], list[TrialResult]] = {}
    for tried, result in results_of(comparison, planned, "settings").items():
        results.setdefault((tried.target, tried.title, tried.setting), []).append(result)
    rows = [
        row for titles in _titles(comparison).values() for row in _rows(comparison, titles, results)
    ]
    valid = {"valid_accuracy": f"valid_{metric_name(comparison.plan.metric)}"}
    columns = {valid.get(name, name): kind for name, kind in COLUMNS.items()}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _titles(comparison: Comparison) -> dict[str, list[Trial]]:
    """Map each target to its trials of the first seed."""
    found: dict[str, list[Trial]] = {}
    for (target, _), trials in comparison.trials().items():
        found.setdefault(target, trials)
    return found


def _settings_of(
    comparison: Comparison, trials: list[Trial]
) -> Iterator[tuple[Trial, int, dict[str, Any]]]:
    for trial in trials:
        choices = comparison.plan.compare.methods[trial.method].choices
        if len(choices) > 1:
            for number, arguments in enumerate(choices):
                yield trial, number, arguments


def _rows(
    comparison: Comparison,
    trials: list[Trial],
    results: Mapping[tuple[str, str, int | None], list[TrialResult]],
) -> Iterator[dict[str, Any]]:
    selection, metric = comparison.plan.selection, metric_name(comparison.plan.metric)
    for trial in trials:
        choices = comparison.plan.compare.methods[trial.method].choices
        if not comparison.tuning_seeds:
            choices = choices[:1]
        rows = []
        for number, arguments in enumerate(choices):
            tried = results.get((trial.target, trial.title, number), [])
            scores = [of.metrics[selection] for of in tried if not of.error]
            rows.append(
                {
                    "target": trial.target,
                    "title": trial.title,
                    "method": trial.method,
                    "setting": number,
                    "arguments": json.dumps(arguments),
                    "seeds": len(scores),
                    "chosen": False,
                    **_means(scores, metric),
                }
            )
        # A setting that failed on some seed is not comparable.
        complete = [row for row in rows if row["seeds"] == len(comparison.tuning_seeds)]
        if len(rows) > 1 and not complete:
            log.warning(
                "%s (%s): every setting failed on some seed, so that the first one is used",
                trial.title,
                trial.target,
            )
        # `max` takes the first of equal ones, which is the setting without tuning.
        best = (
            max(complete, key=_ranked_by(selection, metric))
            if len(rows) > 1 and complete
            else rows[0]
        )
        best["chosen"] = True
        yield from rows


def _means(scores: list[dict[str, float]], metric: str) -> dict[str, float]:
    """The means over the seeds; ``valid_accuracy`` is the mean recall if the recipe has weights."""
    if not scores:
        return {}
    table = pd.DataFrame(scores).mean()
    return {f"valid_{metric}": metric_in(table.to_dict(), metric), "valid_ce": table["valid_ce"]}


def _ranked_by(selection: str, metric: str) -> Any:
    return criteria(metric)[metric if selection == "last" else selection]
