"""The accuracy of some methods over the share of labels: the trials, and the curve."""

from __future__ import annotations

import logging

import pandas as pd
from scipy import stats

from mst_distill.compare.ranking import MIN_SEEDS
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import Comparison, run_trials
from mst_distill.data.samples import Samples
from mst_distill.errors import did_you_mean
from mst_distill.plan import Plan

log = logging.getLogger(__name__)


def run_label_curve(samples: Samples, plan: Plan, trial_log: TrialLog) -> pd.DataFrame:
    """Run a comparison for each share of labels; see `run_trials`.

    The labels of a smaller share are among those of a larger one.

    Args:
        samples: The store.
        plan: All parameters; ``label_curve`` names shares and methods, ``compare`` the seeds and
            targets.
        trial_log: Receives the results, those of each share in a folder of their own.

    Returns:
        The rows of `run_trials` with the column ``labelled``, the share of the training labels.

    Raises:
        ValueError: There is no such method in ``compare.methods``.
    """
    known = plan.compare.methods
    for name in plan.label_curve.methods:
        if name not in known:
            raise ValueError(did_you_mean("method in label_curve.methods", name, known))
    methods = {name: known[name] for name in plan.label_curve.methods}
    compare = plan.compare.model_copy(update={"methods": methods})
    tables = []
    for share in plan.label_curve.shares:
        log.info("Trials with %g of the labels", share)
        of_share = plan.model_copy(update={"labelled": share, "compare": compare})
        comparison = Comparison(samples, of_share, trial_log.within(f"labelled-{share:g}"))
        tables.append(run_trials(comparison).assign(labelled=share))
    return pd.concat(tables, ignore_index=True)


def label_curve_table(trials: pd.DataFrame, selection: str, confidence: float) -> pd.DataFrame:
    """Compute the mean accuracy over the seeds for each share of labels.

    Args:
        trials: From `run_label_curve`.
        selection: The criterion by which epochs are selected.
        confidence: The level of the intervals.

    Returns:
        A row for each target, title and share: ``seeds``, ``accuracy`` (the mean, in [0, 1]), and
        ``low`` and ``high``, Student's interval of the mean over the seeds, which is missing with
        fewer than three seeds.
    """
    selected = trials[(trials["error"] == "") & (trials["selection"] == selection)]
    rows = []
    keys = ["target", "title", "labelled"]
    for (target, title, share), of_share in selected.groupby(keys, sort=False):
        accuracy = of_share["accuracy"]
        low = high = float("nan")
        if len(accuracy) >= MIN_SEEDS:
            half = stats.sem(accuracy) * stats.t.ppf((1 + confidence) / 2, len(accuracy) - 1)
            low, high = accuracy.mean() - half, accuracy.mean() + half
        rows.append((target, title, share, len(accuracy), accuracy.mean(), low, high))
    return pd.DataFrame(rows, columns=[*keys, "seeds", "accuracy", "low", "high"])
