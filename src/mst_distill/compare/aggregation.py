"""The comparisons of several benchmarks together: differences in each setting, and over all.

A setting is a benchmark and a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from mst_distill.compare.ranking import COMPARED, METRICS, MIN_SEEDS, paired_metrics
from mst_distill.errors import did_you_mean

ALL = "all settings"
"""The value of the column ``setting`` in the rows of the mean over all settings."""


def gather(comparisons: Mapping[str, pd.DataFrame], selection: str) -> pd.DataFrame:
    """Combine the trials of all comparisons into one table, without incomplete methods.

    In each setting, a method with several teachers is represented by the teacher with the largest
    mean accuracy on the same held-out samples, which is a selection in its favour. A combination
    of method and teacher is left out of a setting if one of its trials there failed.

    Args:
        comparisons: ``BENCHMARK/PROTOCOL-LIMIT`` to the table of `run_trials`.
        selection: The selection criterion whose accuracy decides between teachers.

    Returns:
        One row for each ``setting``, ``method``, ``seed`` and ``selection``: ``title``, which names
        the teacher, and the `METRICS`.

    Raises:
        ValueError: Two comparisons are of the same benchmark.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, table in comparisons.items():
        benchmark = name.split("/")[0]
        if benchmark in tables:
            same = [each for each in comparisons if each.split("/")[0] == benchmark]
            raise ValueError(
                f"{benchmark!r} would count twice, as {' and '.join(same)}: run one of them under "
                f"another name, --params=run=NAME"
            )
        tables[benchmark] = table.assign(setting=benchmark + ", " + table["target"])
    trials = pd.concat(tables.values(), ignore_index=True)
    keys = ["setting", "method", "title"]
    failed = pd.MultiIndex.from_frame(trials.loc[trials["error"] != "", keys])
    trials = trials[~pd.MultiIndex.from_frame(trials[keys]).isin(failed)]
    means = trials[trials["selection"] == selection].groupby(keys, sort=False)["accuracy"].mean()
    best = means.groupby(level=keys[:2], sort=False).idxmax()
    is_best = pd.MultiIndex.from_frame(trials[keys]).isin(list(best))
    columns = ["setting", "method", "title", "seed", "selection", *METRICS]
    return trials.loc[is_best, columns].reset_index(drop=True)


def gain_table(trials: pd.DataFrame, baseline: str, confidence: float) -> pd.DataFrame:
    """Compare every method with the baseline, seed by seed: in each setting, and in their mean.

    Intervals and tests are Student's for paired samples, over seeds. Over all settings, the value
    of a seed is the mean of its differences. The intervals and tests therefore state what other
    seeds would give on these benchmarks and held-out samples, not what other samples or benchmarks
    would.

    Args:
        trials: From `gather`.
        baseline: The method that the others are compared with.
        confidence: Of the intervals, in (0, 1).

    Returns:
        One row for each ``setting`` (or `ALL`, for methods that are in every setting),
        ``selection`` and ``method``: ``pairs``, ``difference``, ``sd``, ``low``, ``high``
        (accuracy, 1 = 100 points), ``p``, and the mean differences of the other metrics of
        `COMPARED` with their ``_p``. Values that are not defined are NaN, see `paired`.

    Raises:
        ValueError: The baseline is not a method of these trials, or fewer than `MIN_SEEDS` seeds
            are common to all settings.
    """
    methods = list(dict.fromkeys(trials["method"]))
    settings = list(dict.fromkeys(trials["setting"]))
    if baseline not in methods:
        raise ValueError(did_you_mean("baseline", baseline, methods))
    seeds = {setting: set(rows["seed"]) for setting, rows in trials.groupby("setting", sort=False)}
    if len(set.intersection(*seeds.values())) < MIN_SEEDS:
        found = "; ".join(f"{setting}: {sorted(seeds[setting])}" for setting in settings)
        raise ValueError(
            f"at least {MIN_SEEDS} seeds must be common to all settings, since fewer allow no "
            f"interval; there are {found}"
        )
    rows = []
    for criterion, of_criterion in trials.groupby("selection", sort=False):
        scores = of_criterion.pivot_table(COMPARED, "seed", ["method", "setting"])
        for method in methods:
            if method != baseline:
                gains = {m: scores[m][method] - scores[m][baseline] for m in COMPARED}
                key = {"selection": criterion, "method": method}
                rows += [{**key, **row} for row in _in_settings(gains, settings, confidence)]
    return pd.DataFrame(rows)


def _in_settings(
    gains: Mapping[str, pd.DataFrame], settings: list[str], confidence: float
) -> Iterator[dict[str, object]]:
    """Compare one method with the baseline; each table of `gains` is ``(seeds, settings)``."""
    accuracy = gains["accuracy"]
    common = [name for name in settings if accuracy.get(name, pd.Series()).notna().any()]
    for name in common:
        values = {metric: table[name].dropna().to_numpy() for metric, table in gains.items()}
        yield {"setting": name, **paired_metrics(values, confidence)}
    if common == settings:
        complete = {metric: table[settings].dropna() for metric, table in gains.items()}
        means = {metric: table.mean(axis=1).to_numpy() for metric, table in complete.items()}
        yield {"setting": ALL, **paired_metrics(means, confidence)}
