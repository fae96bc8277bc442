"""Nodes of `compare`: the trials, and what they show."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.benchmarks.source import Protocol
from mst_distill.compare.trial_store import TrialLog
from mst_distill.data.samples import Samples
from mst_distill.parameters import Compare, Evaluate, Masks, Members, Route, Runtime, Teachers

log = logging.getLogger(__name__)


def train_methods(
    samples: Samples,
    trial_log: TrialLog,
    protocol: Protocol,
    seed: int,
    members: Members,
    teachers: Teachers,
    masks: Masks,
    route: Route,
    compare: Compare,
    evaluate: Evaluate,
    runtime: Runtime,
) -> pd.DataFrame:
    """Let every method teach the student, for every target and seed; one row a trial and rule."""
    from mst_distill.compare.context import Recipe
    from mst_distill.compare.trials import Comparison, run_trials

    recipe = Recipe(members, teachers, masks, route, compare)
    return run_trials(Comparison(samples, protocol, seed, recipe, evaluate, runtime, trial_log))


def compare_methods(
    trials: pd.DataFrame, route: Route, compare: Compare, evaluate: Evaluate
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Say who wins: the report, the means, the paired differences."""
    from mst_distill.compare.ranking import difference_table, rank, report_on
    from mst_distill.compare.teaching import baseline_of

    baseline = baseline_of(compare)
    ranking = rank(trials, route.selection)
    differences = difference_table(trials, baseline, route.selection, evaluate.confidence)
    report = report_on(trials, ranking, differences, compare, route.selection, evaluate.confidence)
    for sentences in report["verdicts"].values():
        for sentence in sentences:
            log.info("%s", sentence)
    return report, ranking, differences


def draw_differences(method_differences: pd.DataFrame) -> Figure:
    """How far every method is from the student alone, with intervals."""
    from mst_distill.compare.plots import differences_figure

    return differences_figure(method_differences)


def summarise_methods(
    report: dict[str, Any], ranking: pd.DataFrame, differences: pd.DataFrame
) -> str:
    """The comparison as a page of Markdown."""
    from mst_distill.compare.ranking_page import ranking_page

    return ranking_page(report, ranking, differences)
