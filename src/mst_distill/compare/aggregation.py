"""The comparisons of several benchmarks together: differences in every setting, and over all.

A setting is a benchmark and a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from mst_distill.compare.ranking import FEWEST, FIGURES, paired
from mst_distill.errors import unknown

ALL = "all settings"
"""Stands in the column of settings for the mean over all of them."""


def gather(comparisons: Mapping[str, pd.DataFrame], selection: str) -> pd.DataFrame:
    """Put the trials of all comparisons into one table, without those that allow no mean.

    A method with several teachers is represented in each setting by the teacher with the largest
    mean accuracy on the same held-out samples, which favours it. A method is left out of a setting
    in which one of its trials failed.

    Args:
        comparisons: ``BENCHMARK/TERMS`` to the table of `run_trials`.
        selection: The rule by which these teachers are chosen.

    Returns:
        A row a ``setting``, ``method``, ``seed`` and ``rule``: ``title``, which names the teacher,
        and the `FIGURES`.

    Raises:
        ValueError: A benchmark is there twice, with different terms.
    """
    tables: dict[str, pd.DataFrame] = {}
    for name, table in comparisons.items():
        benchmark = name.split("/")[0]
        if benchmark in tables:
            twice = [each for each in comparisons if each.split("/")[0] == benchmark]
            raise ValueError(
                f"{benchmark!r} would count twice, as {' and '.join(twice)}: run one of them under "
                f"another name, --params=run=NAME"
            )
        tables[benchmark] = table.assign(setting=benchmark + ", " + table["target"])
    trials = pd.concat(tables.values(), ignore_index=True)
    ways = ["setting", "method", "title"]
    failed = pd.MultiIndex.from_frame(trials.loc[trials["error"] != "", ways])
    trials = trials[~pd.MultiIndex.from_frame(trials[ways]).isin(failed)]
    means = trials[trials["rule"] == selection].groupby(ways, sort=False)["accuracy"].mean()
    best = means.groupby(level=ways[:2], sort=False).idxmax()
    kept = pd.MultiIndex.from_frame(trials[ways]).isin(list(best))
    columns = ["setting", "method", "title", "seed", "rule", *FIGURES]
    return trials.loc[kept, columns].reset_index(drop=True)


def gain_table(trials: pd.DataFrame, baseline: str, confidence: float) -> pd.DataFrame:
    """Compare every method with the baseline, seed by seed: in each setting, and in their mean.

    Intervals and tests are Student's for paired samples, over seeds. Over all settings a seed
    counts with the mean of its differences. They therefore state what other seeds would give on
    these benchmarks and held-out samples, not what other samples or benchmarks would.

    Args:
        trials: From `gather`.
        baseline: The method that the others are compared with.
        confidence: Of the intervals, in (0, 1).

    Returns:
        A row a ``setting`` (or `ALL`, for methods that are in every setting), ``rule`` and
        ``method``: ``pairs``, ``difference``, ``sd``, ``low``, ``high`` (accuracy, 1 = 100 points),
        ``p``, and the mean differences ``nll`` and ``calibration_error`` with their ``_p``. What
        cannot be tested has no interval and no p, see `paired`.

    Raises:
        ValueError: The baseline is no method of these trials, or fewer than `FEWEST` seeds are in
            every setting.
    """
    methods = list(dict.fromkeys(trials["method"]))
    settings = list(dict.fromkeys(trials["setting"]))
    if baseline not in methods:
        raise ValueError(unknown("baseline", baseline, methods))
    seeds = {setting: set(rows["seed"]) for setting, rows in trials.groupby("setting", sort=False)}
    if len(set.intersection(*seeds.values())) < FEWEST:
        found = "; ".join(f"{setting}: {sorted(seeds[setting])}" for setting in settings)
        raise ValueError(
            f"at least {FEWEST} seeds must be common to all settings, since fewer allow no "
            f"interval; there are {found}"
        )
    rows = []
    for rule, of_rule in trials.groupby("rule", sort=False):
        scores = of_rule.pivot_table(FIGURES, "seed", ["method", "setting"])
        for method in methods:
            if method != baseline:
                gains = {f: scores[f][method] - scores[f][baseline] for f in FIGURES}
                key = {"rule": rule, "method": method}
                rows += [{**key, **row} for row in _in_settings(gains, settings, confidence)]
    return pd.DataFrame(rows)


def _in_settings(
    gains: Mapping[str, pd.DataFrame], settings: list[str], confidence: float
) -> Iterator[dict[str, object]]:
    """One method against the baseline; each of `gains` is ``(seeds, settings)``."""
    accuracy = gains["accuracy"]
    common = [name for name in settings if accuracy.get(name, pd.Series()).notna().any()]
    for name in common:
        own = {figure: table[name].dropna().to_numpy() for figure, table in gains.items()}
        yield {"setting": name, **_tested(own, confidence)}
    if common == settings:
        whole = {figure: table[settings].dropna() for figure, table in gains.items()}
        means = {figure: table.mean(axis=1).to_numpy() for figure, table in whole.items()}
        yield {"setting": ALL, **_tested(means, confidence)}


def _tested(gains: Mapping[str, np.ndarray], confidence: float) -> dict[str, float]:
    row = paired(gains["accuracy"], confidence)
    for figure in FIGURES[1:]:
        other = paired(gains[figure], confidence)
        row |= {figure: other["difference"], f"{figure}_p": other["p"]}
    return row
