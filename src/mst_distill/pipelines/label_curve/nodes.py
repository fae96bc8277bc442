"""Nodes of `label_curve`: trials for each share of labels, and the curve."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.provenance import depends_on
from mst_distill.compare.trial_store import TrialLog
from mst_distill.data.samples import Samples
from mst_distill.plan import Plan


@depends_on(
    "protocol",
    "seed",
    "labelled_validation",
    "labelled_per_batch",
    "members",
    "teachers",
    "masks",
    "route",
    "compare",
    "label_curve",
    "evaluate",
    "runtime",
)
def train_shares(samples: Samples, label_curve_log: TrialLog, plan: Plan) -> pd.DataFrame:
    """Train the student with some methods, for every share of labels, target and seed.

    Returns:
        A row for each share, trial and selection criterion.
    """
    from mst_distill.compare.label_curve import run_label_curve

    return run_label_curve(samples, plan, label_curve_log)


@depends_on("route", "evaluate")
def compare_shares(label_curve_trials: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The mean accuracy of each method over the seeds, for every share of labels."""
    from mst_distill.compare.label_curve import label_curve_table

    confidence = plan.evaluate.confidence
    return label_curve_table(label_curve_trials, plan.route.selection, confidence)


def draw_label_curve(label_curve: pd.DataFrame) -> Figure:
    """The accuracy of each method over the share of labels."""
    from mst_distill.compare.plots import label_curve_figure

    return label_curve_figure(label_curve)
