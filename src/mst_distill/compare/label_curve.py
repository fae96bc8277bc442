"""Some methods over the share of labels: trials, curve and paired gains."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mst_distill.benchmarks.splits import assign_splits, keep_labels
from mst_distill.compare.comparison import Comparison
from mst_distill.compare.methods.pseudo_labels import PseudoLabels
from mst_distill.compare.ranking import mean_interval, paired
from mst_distill.compare.teaching import resolve_methods
from mst_distill.compare.trial_store import TrialLog
from mst_distill.compare.trials import run_trials
from mst_distill.data.samples import Samples, labelled_splits
from mst_distill.errors import did_you_mean
from mst_distill.metric import ACCURACY, Metric
from mst_distill.parameters import Compare
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
        ValueError, TypeError: There is no such method in ``compare.methods``, or a comparison is
            invalid, see `Comparison.check`; raised before the first trial of any share.
    """
    known = plan.compare.methods
    for name in plan.label_curve.methods:
        if name not in known:
            raise ValueError(did_you_mean("method in label_curve.methods", name, known))
    methods = {name: known[name] for name in plan.label_curve.methods}
    compare = plan.compare.model_copy(update={"methods": methods})
    comparisons = {}
    for share in plan.label_curve.shares:
        of_share = plan.model_copy(update={"labelled": share, "compare": compare})
        comparisons[share] = Comparison(samples, of_share, trial_log.within(f"labelled-{share:g}"))
        comparisons[share].check()
    tables = []
    for share, comparison in comparisons.items():
        log.info("Trials with %g of the labels", share)
        tables.append(run_trials(comparison).assign(labelled=share))
    return pd.concat(tables, ignore_index=True)


def label_curve_table(
    trials: pd.DataFrame, selection: str, confidence: float, metric: Metric = ACCURACY
) -> pd.DataFrame:
    """Compute the mean metric over the seeds for each share of labels.

    Args:
        trials: From `run_label_curve`.
        selection: The criterion by which epochs are selected.
        confidence: The level of the intervals.
        metric: The metric that decides.

    Returns:
        A row for each target, title and share: ``seeds``, the mean metric by its name, and
        ``low`` and ``high``, Student's interval of the mean over the seeds, which is missing with
        fewer than three seeds.
    """
    selected = _selected(trials, selection)
    rows = []
    keys = ["target", "title", "labelled"]
    for (target, title, share), of_share in selected.groupby(keys, sort=False):
        values = of_share[metric.name]
        interval = mean_interval(values, confidence)
        rows.append((target, title, share, len(values), *interval))
    return pd.DataFrame(rows, columns=[*keys, "seeds", metric.name, "low", "high"])


def label_curve_gains(
    trials: pd.DataFrame,
    selection: str,
    confidence: float,
    baseline: str | None,
    metric: Metric = ACCURACY,
) -> pd.DataFrame:
    """Compare every method with the baseline, seed by seed, for each share of labels.

    Args:
        trials: From `run_label_curve`.
        selection: The criterion by which epochs are selected.
        confidence: The level of the intervals.
        baseline: The title of the baseline, or None if it was not trained.
        metric: The metric that decides.

    Returns:
        A row for each target, title and share with finished trials of the method and the baseline:
        ``pairs``, the number of seeds that both have, ``difference``, the mean of their paired
        differences (accuracy: 1 = 100 points), and ``low`` and ``high``, its interval, which is
        missing in the cases that `paired` states. Without a pair the difference is missing too.
    """
    keys, values = ["target", "title", "labelled"], ["pairs", "difference", "low", "high"]
    rows = []
    for (target, share), of_share in _selected(trials, selection).groupby(
        ["target", "labelled"], sort=False
    ):
        values_of = _by_seed(of_share, metric)
        for title in dict.fromkeys(of_share["title"]):
            if baseline is not None and baseline in values_of and title != baseline:
                gain = _gain(values_of, title, baseline, confidence)
                rows.append((target, title, share, *(gain[name] for name in values)))
    return pd.DataFrame(rows, columns=[*keys, *values])


@dataclass(frozen=True)
class BestMethod:
    """The method with the largest mean metric for one target and one share of labels.

    Attributes:
        target: The student's modality.
        share: The share of the labels, in (0, 1).
        title: The method and its teacher; not the baseline.
        value: Its mean metric over the seeds.
        gain: `paired` of its metric minus the baseline's; without pairs if the baseline has no
            trial.
        pseudo_labels: The title of the method with pseudo-labels alone that has the largest mean,
            which may be `title`; empty if there is none.
        over_pseudo_labels: `paired` of the metric minus that of `pseudo_labels`; without pairs if
            there is no other such method.
    """

    target: str
    share: float
    title: str
    value: float
    gain: dict[str, float]
    pseudo_labels: str
    over_pseudo_labels: dict[str, float]


def best_methods(
    trials: pd.DataFrame,
    selection: str,
    confidence: float,
    baseline: str | None,
    pseudo_labels: Collection[str],
    metric: Metric = ACCURACY,
) -> list[BestMethod]:
    """Find the best method other than the baseline for each target and share of labels below 1.

    It is found on the same test samples on which it is compared, which is a selection in its
    favour. Methods with fewer finished seeds than others are left out.

    Args:
        trials: From `run_label_curve`.
        selection: The criterion by which epochs are selected.
        confidence: The level of the intervals.
        baseline: The title of the baseline, or None if it was not trained.
        pseudo_labels: The names of the methods with pseudo-labels alone, see
            `pseudo_label_methods`.
        metric: The metric that decides.
    """
    selected = _selected(trials, selection)
    few = selected[(selected["labelled"] < 1) & (selected["title"] != baseline)]
    found = []
    for (target, _), of_share in few.groupby(["target", "labelled"], sort=False):
        share = float(of_share["labelled"].iloc[0])
        same = (selected["target"] == target) & (selected["labelled"] == share)
        values = _by_seed(selected[same], metric)
        by_title = of_share.groupby("title", sort=False)[metric.name]
        # A mean over fewer seeds is not comparable.
        means = by_title.mean()[by_title.count() == by_title.count().max()]
        title = str(means.idxmax())
        titles = set(of_share.loc[of_share["method"].isin(pseudo_labels), "title"])
        alone = means[means.index.isin(titles)]
        comparator = str(alone.idxmax()) if len(alone) else ""
        gain, over = (
            _gain(values, title, other, confidence) for other in (baseline or "", comparator)
        )
        found.append(BestMethod(str(target), share, title, means[title], gain, comparator, over))
    return found


def pseudo_label_methods(compare: Compare) -> frozenset[str]:
    """Return the names of the methods that only fill in missing labels, see `PseudoLabels`."""
    methods = resolve_methods(compare).items()
    return frozenset(name for name, method in methods if issubclass(method, PseudoLabels))


def label_counts(samples: Samples, plan: Plan) -> pd.DataFrame:
    """Count the labels that each share of ``label_curve.shares`` stands for.

    Args:
        samples: The store.
        plan: The parameters of the splits; the labels are those of ``seed``, the first of the
            seeds. Other seeds have as many, except with ``protocol: random`` and a share so small
            that only one label of each class is used, since a split may lack a rare class.

    Returns:
        A row for each share, ascending: ``labelled``, ``train`` and ``valid``, the number of
        samples of the split whose label is used.
    """
    splits = assign_splits(samples.index, plan.protocol, plan.seed)
    rows = []
    for share in plan.label_curve.shares:
        of_splits = plan.model_copy(update={"labelled": share}).label_shares
        used = labelled_splits(samples, keep_labels(splits, of_splits, plan.seed))
        rows.append((share, (used == "train").sum(), (used == "valid").sum()))
    return pd.DataFrame(rows, columns=["labelled", "train", "valid"])


def _selected(trials: pd.DataFrame, selection: str) -> pd.DataFrame:
    """Return the rows of finished trials by one selection criterion."""
    return trials[(trials["error"] == "") & (trials["selection"] == selection)]


def _by_seed(selected: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the metrics of one target and share, ``(seeds, titles)``."""
    return selected.pivot_table(metric.name, "seed", "title")


def _gain(values: pd.DataFrame, title: str, comparator: str, confidence: float) -> dict[str, float]:
    """Return `paired` of two columns; without pairs if there is no such comparator, or the same."""
    if comparator not in values or comparator == title:
        return paired(np.array([]), confidence)
    return paired((values[title] - values[comparator]).dropna().to_numpy(), confidence)
