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


@depends_on("members", "students", "compare", "runtime", budget=())
def compute_student_costs(samples: Samples, plan: Plan) -> pd.DataFrame:
    """What the students cost, if there are some of other sizes: a row for each."""
    from mst_distill.pipelines.student_costs import measure_students

    return measure_students(samples, plan)


@depends_on("protocol", "seed", *LABELS, *STAGES, "compare", "evaluate", "runtime")
def train_methods(
    samples: Samples, trial_log: TrialLog, plan: Plan
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the student with every method, for every target and seed.

    Returns:
        A row for each setting that a method could choose, and a row for each trial and selection
        criterion.
    """
    from mst_distill.compare.comparison import Comparison
    from mst_distill.compare.trials import run_trials
    from mst_distill.compare.tuning import choose_settings

    comparison = Comparison(samples, plan, trial_log)
    settings = choose_settings(comparison)
    return settings, run_trials(comparison, settings)


@depends_on("route", "compare", "evaluate", "seen_labels", *LABELS[:2])
def compare_methods(
    trials: pd.DataFrame, methods_settings: pd.DataFrame, plan: Plan
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Rank the methods: the report, the means, the paired differences."""
    from mst_distill.compare.ranking import difference_table, rank, report_on
    from mst_distill.compare.teaching import baseline_of, controls_of
    from mst_distill.metric import metric_of

    selection, confidence = plan.selection, plan.evaluate.confidence
    metric = metric_of(plan.metric)
    ranking = rank(trials, selection, metric)
    baseline, controls = baseline_of(plan.compare), controls_of(plan.compare)
    differences = difference_table(trials, baseline, selection, confidence, controls, metric)
    report = report_on(
        trials, ranking, differences, plan.compare, selection, confidence, methods_settings, metric
    )
    report["terms"] += _labels_seen(plan)
    for sentences in report["verdicts"].values():
        for sentence in sentences:
            log.info("%s", sentence)
    return report, ranking, differences


def _labels_seen(plan: Plan) -> str:
    """A sentence on given teachers that may have seen labels which are hidden from students."""
    names = [name for name, seen in plan.seen_labels.items() if seen != "none"]
    if not names or plan.labelled == 1:
        return ""
    which = f"given teacher{'s' * (len(names) > 1)} {', '.join(names)}"
    return f" Of the labels that are hidden from the students, the {which} may have seen some."


@depends_on("route", "compare", "evaluate")
def compare_students(trials: pd.DataFrame, student_costs: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """What students of several sizes cost and reach: baseline and best method of each."""
    from mst_distill.compare.student_sizes import size_table
    from mst_distill.compare.teaching import baseline_of
    from mst_distill.metric import metric_of

    settings = (plan.selection, baseline_of(plan.compare), plan.evaluate.confidence)
    return size_table(student_costs, trials, *settings, metric_of(plan.metric))


@depends_on("compare", "metric")
def draw_students(student_sizes: pd.DataFrame, plan: Plan) -> Figure:
    """The metric of students over what they cost."""
    from mst_distill.compare.plots import sizes_figure
    from mst_distill.compare.teaching import baseline_of
    from mst_distill.metric import metric_of

    return sizes_figure(student_sizes, baseline_of(plan.compare), metric_of(plan.metric))


@depends_on("metric")
def draw_differences(methods_differences: pd.DataFrame, plan: Plan) -> Figure:
    """The difference between every method and the baseline, with intervals."""
    from mst_distill.compare.plots import differences_figure
    from mst_distill.metric import metric_of

    return differences_figure(methods_differences, metric_of(plan.metric))


def summarise_methods(
    methods_report: dict[str, Any],
    methods_ranking: pd.DataFrame,
    methods_differences: pd.DataFrame,
    student_sizes: pd.DataFrame,
) -> str:
    """The comparison as a page of Markdown."""
    from mst_distill.compare.ranking_page import ranking_page

    return ranking_page(methods_report, methods_ranking, methods_differences, student_sizes)


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
    plan: Plan,
    **shown: Any,
) -> str:
    """The comparison as one file of HTML.

    Args:
        methods_report: From `compare_methods`.
        methods_ranking: From `compare_methods`.
        methods_differences: From `compare_methods`.
        plan: All parameters.
        shown: ``methods_figure``, ``student_sizes`` and ``students_figure``.
    """
    from mst_distill.report.compare_page import compare_page

    parameters = counted_parameters(build_methods_web_page, plan)
    return compare_page(methods_report, methods_ranking, methods_differences, shown, parameters)
