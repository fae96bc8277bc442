"""The comparisons of several benchmarks together: differences in each setting, and over all.

A setting is a benchmark, its labels that are used, and a target. With the protocol ``grouped``, the
comparisons of all folds are one setting.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import pandas as pd

from mst_distill.compare.ranking import (
    BEST_CONTROL,
    COSTS,
    DECIDING,
    MIN_SEEDS,
    compared_columns,
    holm,
    metrics_of,
    paired_metrics,
)
from mst_distill.errors import did_you_mean
from mst_distill.folds import kind_of_deal
from mst_distill.metric import ACCURACY, Metric

ALL = "all settings"
"""The value of the column ``setting`` in the rows of the mean over all settings."""

BETWEEN = "settings as the unit"
"""The same in the rows whose tests are over the settings, not over seeds."""

_NAME = re.compile(
    r"(?P<benchmark>[^/]+)/(?P<splits>.+?)-(?P<limit>all|\d+)(-labelled-(?P<labelled>[\d.]+).*)?"
)


def setting_of(name: str) -> tuple[str, str]:
    """Return the setting of a comparison without its target, and its fold.

    Args:
        name: ``BENCHMARK/SPLITS-LIMIT``, followed by the part of the path on labels, if any.

    Returns:
        For example ``digits, 10 % of the labels`` and an empty text, or ``ravdess, grouped`` and
        ``2of5``.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return name.split("/")[0], ""
    setting = found["benchmark"]
    if found["labelled"]:
        setting += f", {100 * float(found['labelled']):g} % of the labels"
    grouped = found["splits"].startswith("grouped-")
    if not grouped:
        return setting, ""
    return f"{setting}, grouped", found["splits"].removeprefix("grouped-")


def gather(
    comparisons: Mapping[str, pd.DataFrame], selection: str, metric: Metric = ACCURACY
) -> pd.DataFrame:
    """Combine the trials of all comparisons into one table, without incomplete methods.

    In each setting, a method with several teachers is represented by the teacher with the largest
    mean validation metric. A combination of method and teacher is left out of a setting if one of
    its trials there failed.

    Args:
        comparisons: Name, as in `setting_of`, to the table of `run_trials`.
        selection: The selection criterion whose students decide between teachers.
        metric: The metric that decides.

    Returns:
        One row for each ``setting``, ``fold`` (None without folds), ``method``, ``seed``
        and ``selection``: ``title``, which names the teacher, the metrics of `metrics_of`, the
        validation metric and the `COSTS`.

    Raises:
        ValueError: Two comparisons are of the same setting and fold.
    """
    tables: dict[tuple[str, str], pd.DataFrame] = {}
    for name, table in comparisons.items():
        setting, fold = setting_of(name)
        if (setting, fold) in tables:
            same = [each for each in comparisons if setting_of(each) == (setting, fold)]
            raise ValueError(
                f"{setting!r} would count twice, as {' and '.join(same)}: run one of them under "
                f"another name, --params=run=NAME"
            )
        named = setting + ", " + table["target"]
        tables[setting, fold] = table.assign(setting=named, fold=fold or None)
    _check_folds(tables)
    trials = pd.concat(tables.values(), ignore_index=True)
    keys = ["setting", "method", "title"]
    failed = pd.MultiIndex.from_frame(trials.loc[trials["error"] != "", keys])
    trials = trials[~pd.MultiIndex.from_frame(trials[keys]).isin(failed)]
    columns = ["setting", "fold", "method", "title", "seed", "selection"]
    columns += [*metrics_of(metric), f"valid_{metric.name}", *COSTS]
    best = _best_by_validation(trials, keys, selection, metric)
    return best.reindex(columns=columns).reset_index(drop=True)


def _best_by_validation(
    trials: pd.DataFrame, keys: list[str], selection: str, metric: Metric
) -> pd.DataFrame:
    """The trials of the best value of the last key, for each combination of the other keys.

    The best value is that with the largest mean validation metric of the students that `selection`
    selects.
    """
    selected = trials[trials["selection"] == selection]
    means = selected.groupby(keys, sort=False)[f"valid_{metric.name}"].mean()
    best = means.groupby(level=keys[:-1], sort=False).idxmax()
    return trials[pd.MultiIndex.from_frame(trials[keys]).isin(list(best))]


def _check_folds(tables: Mapping[tuple[str, str], pd.DataFrame]) -> None:
    """Check that the folds of a setting are of one deal.

    Raises:
        ValueError: Folds of different numbers, deals by seeds and single groups are joined, which
            would test on the same samples more than once.
    """
    by_setting: dict[str, list[str]] = {}
    for setting, fold in tables:
        if fold:
            by_setting.setdefault(setting, []).append(fold)
    for setting, folds in by_setting.items():
        kinds = {kind_of_deal(fold) for fold in folds}
        if len(kinds) > 1:
            raise ValueError(
                f"{setting!r} has the folds {', '.join(sorted(folds))}, which are not of one deal: "
                f"run those of each under a name of their own, --params=run=NAME"
            )


def against_best_control(
    trials: pd.DataFrame,
    baseline: str,
    controls: Collection[str],
    selection: str,
    metric: Metric = ACCURACY,
) -> pd.DataFrame | None:
    """Put the best control of each setting in the place of the baseline and of all controls.

    Args:
        trials: From `gather`.
        baseline: The method that is left out.
        controls: The methods without another modality, see `Method.control`.
        selection: The selection criterion whose students decide between controls.
        metric: The metric that decides.

    Returns:
        The trials of the other methods, and as the method `BEST_CONTROL` those of the one with
        the largest mean validation metric in each setting; None if a setting has no control, or if
        there is no other method.
    """
    is_control = trials["method"].isin(controls)
    best = _best_by_validation(trials[is_control], ["setting", "method"], selection, metric)
    others = trials[~is_control & (trials["method"] != baseline)]
    if others.empty or best["setting"].nunique() < trials["setting"].nunique():
        return None
    return pd.concat([best.assign(method=BEST_CONTROL), others], ignore_index=True)


def gain_table(
    trials: pd.DataFrame, baseline: str, confidence: float, metric: Metric = ACCURACY
) -> pd.DataFrame:
    """Compare every method with the baseline, seed by seed: in each setting, and in their mean.

    Intervals and tests are Student's for paired samples, over seeds. The p-values of one setting
    and criterion are corrected together, see `holm`. Over all settings, the value of a seed is the
    mean of its differences. The intervals and tests therefore state what other seeds would give on
    these benchmarks and held-out samples, not what other samples or benchmarks would. With the
    settings as the unit, the value of a setting is its mean difference: the interval states what
    other settings would give, if these were drawn from them at random.

    In a setting with folds, the value of a fold is its mean over the seeds. Folds share training
    samples, so that their differences are correlated; see `paired` on what is made of that.

    Args:
        trials: From `gather` or `against_best_control`.
        baseline: The method that the others are compared with.
        confidence: Of the intervals, in (0, 1).
        metric: The metric that decides.

    Returns:
        One row for each ``setting`` (or `ALL` and `BETWEEN`, for methods that are in every setting;
        without `ALL` if a setting has folds, which are no seeds), ``selection`` and ``method``:
        ``against`` (the baseline), ``pairs``, ``difference``, ``sd``, ``low``, ``high`` (accuracy:
        1 = 100 points), ``p``, ``p_corrected``, and the mean differences of
        `ranking.PROBABILITIES` with their ``_p``, which is not corrected. Values that are not
        defined are NaN, see `paired`.

    Raises:
        ValueError: The baseline is not a method of each setting, or the only one, or fewer than
            `MIN_SEEDS` seeds are common to all settings.
    """
    methods = list(dict.fromkeys(trials["method"]))
    settings = list(dict.fromkeys(trials["setting"]))
    if baseline not in methods:
        raise ValueError(did_you_mean("baseline", baseline, methods))
    with_baseline = set(trials.loc[trials["method"] == baseline, "setting"])
    if without := [name for name in settings if name not in with_baseline]:
        raise ValueError(
            f"{baseline!r} is not in {', '.join(without)}, or some of its trials failed there: run "
            f"the comparison of that benchmark again"
        )
    if methods == [baseline]:
        raise ValueError(f"there is no method but {baseline!r}, which the others are compared with")
    trials = trials.assign(unit=_units(trials))
    folds = set(trials.loc[trials["fold"].notna(), "setting"])
    by_setting = trials.groupby("setting", sort=False)
    units = {name: set(rows["unit"]) for name, rows in by_setting}
    shared = {
        str(name): _shared(rows["fold"].dropna().astype(str).unique()) for name, rows in by_setting
    }
    by_seed = [units[name] for name in settings if name not in folds]
    common = set.intersection(*by_seed) if by_seed else set()
    few = [name for name in settings if name in folds and len(units[name]) < MIN_SEEDS]
    if few or (len(folds) < len(settings) and len(common) < MIN_SEEDS):
        found = "; ".join(f"{setting}: {sorted(units[setting])}" for setting in settings)
        raise ValueError(
            f"at least {MIN_SEEDS} seeds must be common to all settings, or a setting must have as "
            f"many folds, since fewer allow no interval; there are {found}"
        )
    rows = []
    for criterion, of_criterion in trials.groupby("selection", sort=False):
        columns = compared_columns(metric)
        scores = of_criterion.pivot_table(list(columns.values()), "unit", ["method", "setting"])
        for method in methods:
            if method != baseline:
                gains = {
                    name: scores[column][method] - scores[column][baseline]
                    for name, column in columns.items()
                }
                key = {"selection": criterion, "method": method, "against": baseline}
                rows += [{**key, **row} for row in _in_settings(gains, shared, confidence)]
    table = pd.DataFrame(rows)
    together = table.groupby(["setting", "selection"], sort=False)["p"]
    table["p_corrected"] = together.transform(lambda p: holm(p.to_numpy()))
    return table


def _units(trials: pd.DataFrame) -> pd.Series:
    """What the tests in a setting are over: its folds, or else its seeds."""
    seeds = trials["seed"].map("seed {}".format)
    return seeds.where(trials["fold"].isna(), "fold " + trials["fold"].astype(str))


def _shared(folds: Collection[str]) -> float:
    """The number of test samples over that of training samples, in the folds of a setting.

    Of K folds, one is the test split, one validates, and K - 2 are trained on. Without a K, groups
    were dealt 60 / 20 / 20, or each fold leaves out one group, of which a fifth of the others
    validates. If only some of the groups were left out, the number is larger than it was, and
    intervals are too wide. Without folds it is 0.
    """
    if not len(folds):
        return 0.0
    kind, count = kind_of_deal(next(iter(folds)))
    if kind == "folds":
        return 1 / (count - 2)
    return 1 / 3 if kind == "seed" else 1.25 / max(len(folds) - 1, 1)


def _in_settings(
    gains: Mapping[str, pd.DataFrame], shared: Mapping[str, float], confidence: float
) -> Iterator[dict[str, object]]:
    """Compare one method with the baseline.

    Args:
        gains: `DECIDING` and the other metrics to the differences, ``(units, settings)``.
        shared: Setting to `_shared`, or 0 without folds.
        confidence: Of the intervals.
    """
    deciding, settings = gains[DECIDING], list(shared)
    common = [name for name in settings if deciding.get(name, pd.Series()).notna().any()]
    for name in common:
        values = {of: table[name].dropna().to_numpy() for of, table in gains.items()}
        yield {"setting": name, **paired_metrics(values, confidence, shared[name])}
    if common != settings:
        return
    if not any(shared.values()):
        complete = {of: table[settings].dropna() for of, table in gains.items()}
        means = {of: table.mean(axis=1).to_numpy() for of, table in complete.items()}
        yield {"setting": ALL, **paired_metrics(means, confidence)}
    by_setting = {of: table[settings].mean().to_numpy() for of, table in gains.items()}
    yield {"setting": BETWEEN, **paired_metrics(by_setting, confidence)}
