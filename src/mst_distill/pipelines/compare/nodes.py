"""Nodes of `compare`: the trials, and the report on them."""

from __future__ import annotations

import logging
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.provenance import counted_parameters, depends_on
from mst_distill.compare.trial_store import TrialLog
from mst_distill.data.samples import Samples
from mst_distill.plan import Plan

log = logging.getLogger(__name__)

LABELS = ("labelled", "labelled_validation", "labelled_per_batch")
STAGES = ("members", "students", "training", "teachers", "given", "masks", "route")


@depends_on("protocol", "seed", *LABELS, *STAGES, "compare", "evaluate", "runtime")
def train_methods(
    samples: Samples, trial_log: TrialLog, plan: Plan
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the student with every method, for every target and seed.

    Returns:
        A row for each setting that a method could choose, and a row for each trial and selection
        criterion.
    """
    from mst_distill.compare.trials import Comparison, run_trials
    from mst_distill.compare.tuning import choose_settings

    comparison = Comparison(samples, plan, trial_log)
    settings = choose_settings(comparison)
    return settings, run_trials(comparison, settings)


@depends_on("route", "compare", "evaluate")
def compare_methods(
    trials: pd.DataFrame, methods_settings: pd.DataFrame, plan: Plan
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Rank the methods: the report, the means, the paired differences."""
    from mst_distill.compare.ranking import difference_table, rank, report_on
    from mst_distill.compare.teaching import baseline_of, controls_of

    selection, confidence = plan.route.selection, plan.evaluate.confidence
    ranking = rank(trials, selection)
    baseline, controls = baseline_of(plan.compare), controls_of(plan.compare)
    differences = difference_table(trials, baseline, selection, confidence, controls)
    report = report_on(
        trials, ranking, differences, plan.compare, selection, confidence, methods_settings
    )
    for sentences in report["verdicts"].values():
        for sentence in sentences:
            log.info("%s", sentence)
    return report, ranking, differences


def draw_differences(methods_differences: pd.DataFrame) -> Figure:
    """The difference between every method and the baseline, with intervals."""
    from mst_distill.compare.plots import differences_figure

    return differences_figure(methods_differences)


def summarise_methods(
    methods_report: dict[str, Any],
    methods_ranking: pd.DataFrame,
    methods_differences: pd.DataFrame,
) -> str:
    """The comparison as a page of Markdown."""
    from mst_distill.compare.ranking_page import ranking_page

    return ranking_page(methods_report, methods_ranking, methods_differences)


@depends_on(
    "protocol",
    "deal",
    "limit",
    "seed",
    "benchmark",
    *LABELS,
    *STAGES,
    "compare",
    "evaluate",
    "runtime",
)
def build_methods_web_page(
    methods_report: dict[str, Any],
    methods_ranking: pd.DataFrame,
    methods_differences: pd.DataFrame,
    methods_figure: bytes,
    plan: Plan,
) -> str:
    """The comparison as one file of HTML."""
    from mst_distill.report.compare_page import compare_page

    parameters = counted_parameters(build_methods_web_page, plan)
    return compare_page(
        methods_report, methods_ranking, methods_differences, methods_figure, parameters
    )
