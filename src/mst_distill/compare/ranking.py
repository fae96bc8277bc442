"""Who wins: means over seeds, and paired differences corrected for how many there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from mst_distill.parameters import Compare

FIGURES = ["accuracy", "nll", "calibration_error"]
COSTS = ["student_epochs", "seconds", "peak_bytes", "extra_parameters"]

BEST = "the best other"
"""Whom a method is held against beside the student alone."""

FEWEST = 3
"""Seeds that an interval and a test need. Two give Student's t one degree of freedom, and nothing
where both differences happen to be equal."""

_TERMS = {
    "equal": "Equal terms: every student has as many epochs, the same start weights, order of "
    "batches, splits and rules of selection. Seconds are without the teachers that all share.",
    "reference": "Every method has its own budget, as in the paper's tables; the student epochs "
    "say which. Seconds are without the teachers that all share.",
}


def rank(trials: pd.DataFrame, selection: str) -> pd.DataFrame:
    """Means and standard deviations over the seeds.

    Args:
        trials: From `run_trials`.
        selection: The rule whose figures come with their deviations and the costs.

    Returns:
        A row a target and title (method and teacher), the best of a target first: ``runs``,
        ``missing``, `FIGURES` with their ``_sd``, and, by every other rule, ``_by_RULE``; `COSTS`.
    """
    trials = trials.reindex(columns=[*trials.columns.union([*FIGURES, *COSTS], sort=False)])
    tried = trials.groupby(["target", "title"], sort=False)
    own = trials[trials["rule"] == selection].groupby(["target", "title"], sort=False)
    table = pd.DataFrame({"missing": tried["error"].agg(lambda errors: (errors != "").sum())})
    table.insert(0, "runs", own.size().reindex(table.index, fill_value=0))
    for figure in FIGURES:
        table[figure] = own[figure].mean()
        table[f"{figure}_sd"] = own[figure].std()
    for rule in _rules(trials, selection)[1:]:
        of_rule = trials[trials["rule"] == rule].groupby(["target", "title"], sort=False)
        for figure in FIGURES:
            table[f"{figure}_by_{rule}"] = of_rule[figure].mean()
    for cost in COSTS:
        table[cost] = own[cost].mean()
    order = ["target", "accuracy"]
    return table.reset_index().sort_values(order, ascending=[True, False], ignore_index=True)


def difference_table(
    trials: pd.DataFrame, baseline: str | None, selection: str, confidence: float
) -> pd.DataFrame:
    """Every method against the student alone and against the best other method, seed by seed.

    Interval and test are Student's for paired samples, over seeds: they say what other seeds would
    give on these held-out samples, not what other samples would. The p-values of one target, rule
    and opponent are corrected together after Holm, "A Simple Sequentially Rejective Multiple Test
    Procedure", 1979. The best other method is that of the largest mean on the same held-out
    samples, which flatters it.

    Args:
        trials: From `run_trials`.
        baseline: The title of the student alone, if it is there.
        selection: The run's rule; it comes first.
        confidence: Of the interval, in (0, 1).

    Returns:
        A row a target, rule, opponent and title: ``against`` (the baseline or `BEST`),
        ``opponent``, ``pairs``, ``difference``, ``sd``, ``low``, ``high`` (accuracy, 1 = 100
        points), ``p``, ``p_corrected``; and of the negative log-likelihood (nats, above 0 is worse)
        the mean difference ``nll`` and ``nll_p``, which is not corrected. NaN where there are none,
        see `paired`.
    """
    known = ["target", "rule", "against", "title", "opponent", "nll", "nll_p"]
    tables = [pd.DataFrame(columns=known)]
    for target in dict.fromkeys(trials["target"]):
        for rule in _rules(trials, selection):
            part = trials[(trials["target"] == target) & (trials["rule"] == rule)]
            if len(part):
                scores, nll = (part.pivot_table(f, "seed", "title") for f in ("accuracy", "nll"))
                for against in [name for name in (baseline, BEST) if name]:
                    table = pd.DataFrame(_against(scores, nll, against, confidence))
                    tables.append(table.assign(target=target, rule=rule, against=against))
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's corrected p-values, ``(n,)`` to ``(n,)``; NaN stays, and counts as no comparison."""
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def conclude(differences: pd.DataFrame, confidence: float) -> dict[str, dict[str, list[str]]]:
    """What can be said of the methods against the student alone.

    A gain counts if it is above zero under every rule of selection and beyond chance under at least
    two: what one rule alone shows is not one.

    Returns:
        Target to ``better``, ``worse`` and ``undecided``, titles each.
    """
    said: dict[Any, dict[str, list[Any]]] = {}
    alone = differences[differences["against"] != BEST]
    for (target, title), rows in alone.groupby(["target", "title"], sort=False):
        sure = (rows["p_corrected"] < 1 - confidence).sum() >= 2
        kind = "undecided"
        if sure and (rows["difference"] > 0).all():
            kind = "better"
        elif sure and (rows["difference"] < 0).all():
            kind = "worse"
        said.setdefault(target, {"better": [], "worse": [], "undecided": []})[kind].append(title)
    return said


def less_likely(
    differences: pd.DataFrame, selection: str, confidence: float
) -> dict[str, list[str]]:
    """Target to the methods whose likelihood is measurably worse than the student alone's.

    What is right more often may still give the labels smaller probabilities.
    """
    own = differences[(differences["against"] != BEST) & (differences["rule"] == selection)]
    worse = own[(own["nll"] > 0) & (own["nll_p"] < 1 - confidence)]
    return {str(target): list(rows["title"]) for target, rows in worse.groupby("target")}


def report_on(
    trials: pd.DataFrame,
    ranking: pd.DataFrame,
    differences: pd.DataFrame,
    compare: Compare,
    selection: str,
    confidence: float,
) -> dict[str, Any]:
    """The comparison in a few sentences and figures.

    Returns:
        ``heading``, ``terms``, ``selection``, ``confidence``, ``verdicts`` (target to sentences),
        ``conclusions`` (see `conclude`), ``missing`` (trials that died: ``target``, ``title``,
        ``seed``, ``error``) and ``accuracy`` (target to title to mean).
    """
    conclusions = conclude(differences, confidence)
    untested = _untested(differences)
    costly = less_likely(differences, selection, confidence)
    died = trials.loc[trials["error"] != "", ["target", "title", "seed", "error"]]
    finished = ranking[ranking["runs"] > 0]
    ways, seeds = trials["title"].nunique(), trials["seed"].nunique()
    return {
        "heading": f"{ways} ways to teach, {seeds} seeds",
        "terms": _TERMS[compare.budget],
        "selection": selection,
        "confidence": confidence,
        "verdicts": {
            target: list(
                _sentences(
                    finished[finished["target"] == target],
                    conclusions,
                    untested,
                    costly.get(target, []),
                )
            )
            for target in dict.fromkeys(trials["target"])
        },
        "conclusions": conclusions,
        "missing": died.to_dict(orient="records"),
        "accuracy": {
            target: rows.set_index("title")["accuracy"].to_dict()
            for target, rows in finished.groupby("target", sort=False)
        },
    }


def _untested(differences: pd.DataFrame) -> dict[str, int]:
    """Targets none of whose methods has enough seeds for a test, to how many seeds there are."""
    alone = differences[differences["against"] != BEST]
    if alone.empty:
        return {}
    pairs = alone.groupby("target", sort=False)["pairs"].max()
    return {str(target): int(most) for target, most in pairs.items() if most < FEWEST}


def _sentences(
    ranking: pd.DataFrame,
    conclusions: dict[str, dict[str, list[str]]],
    untested: dict[str, int],
    costly: list[str],
) -> Iterator[str]:
    if ranking.empty:
        yield "No trial came to its end."
        return
    best, target = ranking.iloc[0], ranking["target"].iloc[0]
    yield f"Best mean accuracy: {best['title']} with {100 * best['accuracy']:.2f} %."
    if target in untested:
        seeds = untested[target]
        yield (
            f"Whether any method is better than the {target} student alone cannot be told from "
            f"{seeds} seed{'s' * (seeds > 1)}: intervals and tests need at least {FEWEST}."
        )
        return
    for kind in ("better", "worse") if target in conclusions else ():
        names = ", ".join(conclusions[target][kind]) or "no method"
        yield f"{kind.capitalize()} than the {target} student alone, beyond chance: {names}."
    if costly:
        yield f"With a measurably worse likelihood than its: {', '.join(costly)}."


def _against(
    scores: pd.DataFrame, nll: pd.DataFrame, against: str, confidence: float
) -> list[dict[str, Any]]:
    """All columns of `scores` and `nll` (a row a seed) against one opponent."""
    rows: list[dict[str, Any]] = []
    for title in scores:
        opponent = against
        if against == BEST and scores.shape[1] > 1:
            opponent = str(scores.mean().drop(index=title).idxmax())
        if opponent in scores and title != opponent:
            gain = (scores[title] - scores[opponent]).dropna().to_numpy()
            loss = paired((nll[title] - nll[opponent]).dropna().to_numpy(), confidence)
            rows.append(
                {
                    "title": title,
                    "opponent": opponent,
                    **paired(gain, confidence),
                    "nll": loss["difference"],
                    "nll_p": loss["p"],
                }
            )
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_corrected"] = p
    return rows


def paired(gain: np.ndarray, confidence: float) -> dict[str, float]:
    """Mean, spread, interval and test of the differences, ``(pairs,)``.

    Returns:
        ``pairs``, ``difference``, ``sd``, ``low``, ``high`` and ``p``. Of fewer than `FEWEST` pairs
        there is no interval and no test, and of fewer than two no spread: these are NaN. Where all
        differences are the same Student's t is not defined: there is no interval either, and p is 1
        if they are 0, as in any test that may be taken of them, and else NaN.
    """
    found = {
        "pairs": len(gain),
        "difference": gain.mean() if len(gain) else np.nan,
        "sd": gain.std(ddof=1) if len(gain) > 1 else np.nan,
        **dict.fromkeys(("low", "high", "p"), np.nan),
    }
    if len(gain) < FEWEST:
        return found
    if np.ptp(gain) < 1e-12:  # the test divides by their spread
        return found | {"p": np.nan if found["difference"] else 1.0}
    test = stats.ttest_1samp(gain, 0.0)
    interval = test.confidence_interval(confidence)
    return found | {"low": interval.low, "high": interval.high, "p": test.pvalue}


def _rules(trials: pd.DataFrame, selection: str) -> list[str]:
    """All rules that trials were selected by, the run's own first."""
    found = [rule for rule in dict.fromkeys(trials["rule"]) if rule]
    return [selection, *[rule for rule in found if rule != selection]]
