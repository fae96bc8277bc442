"""Nodes of `label_curve`: trials for each share of labels, the curve, and its page."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.provenance import counted_parameters, depends_on
from mst_distill.compare.trial_store import TrialLog
from mst_distill.data.samples import Samples
from mst_distill.plan import Plan

COUNTED = (
    "protocol",
    "deal",
    "seed",
    "labelled_validation",
    "labelled_per_batch",
    "members",
    "students",
    "training",
    "teachers",
    "given",
    "masks",
    "route",
    "compare",
    "label_curve",
    "evaluate",
    "runtime",
)
"""The parameters that the trials depend on."""


@depends_on(*COUNTED)
def train_shares(samples: Samples, label_curve_log: TrialLog, plan: Plan) -> pd.DataFrame:
    """Train the student with some methods, for every share of labels, target and seed.

    Returns:
        A row for each share, trial and selection criterion.
    """
    from mst_distill.compare.label_curve import run_label_curve

    return run_label_curve(samples, plan, label_curve_log)


@depends_on("route", "evaluate")
def compare_shares(label_curve_trials: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The mean metric of each method over the seeds, for every share of labels."""
    from mst_distill.compare.label_curve import label_curve_table
    from mst_distill.metric import metric_of

    confidence, metric = plan.evaluate.confidence, metric_of(plan.metric)
    return label_curve_table(label_curve_trials, plan.selection, confidence, metric)


@depends_on("metric")
def draw_label_curve(label_curve: pd.DataFrame, plan: Plan) -> Figure:
    """The metric of each method over the share of labels."""
    from mst_distill.compare.plots import label_curve_figure
    from mst_distill.metric import metric_of

    return label_curve_figure(label_curve, metric_of(plan.metric))


@depends_on(*COUNTED, "limit", "benchmark")
def build_label_curve_web_page(
    samples: Samples, label_curve_trials: pd.DataFrame, label_curve_figure: bytes, plan: Plan
) -> str:
    """The curve, paired gains and what they show as one file of HTML."""
    from mst_distill.compare.label_curve import label_counts, pseudo_label_methods
    from mst_distill.compare.teaching import baseline_of
    from mst_distill.metric import metric_of
    from mst_distill.report.label_curve_page import CurveResults, label_curve_page

    results = CurveResults(
        label_curve_trials,
        label_counts(samples, plan),
        plan.selection,
        plan.evaluate.confidence,
        baseline_of(plan.compare),
        pseudo_label_methods(plan.compare),
        metric_of(plan.metric),
    )
    parameters = counted_parameters(build_label_curve_web_page, plan)
    return label_curve_page(results, label_curve_figure, plan.benchmark.type, parameters)
