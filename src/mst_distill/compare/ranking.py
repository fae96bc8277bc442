"""The ranking of the methods: means over seeds, and paired differences with corrected p-values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from mst_distill.evaluate.json_values import json_values
from mst_distill.metric import ACCURACY, Metric
from mst_distill.parameters import Compare

PROBABILITIES = ["nll", "nll_scaled", "calibration_error", "calibration_error_scaled"]
"""The metrics by which methods are compared in addition to the one that decides."""

METRICS = ["accuracy", *PROBABILITIES, "temperature"]
COSTS = ["student_epochs", "seconds", "peak_bytes", "extra_parameters"]

DECIDING = "deciding"
"""The key of the metric that decides, among differences."""

BEST_OTHER = "the best other"
"""The second comparator of a method, next to the baseline: the best of the other methods."""

BEST_CONTROL = "the best control"
"""The third one: the best of the methods without another modality, see `Method.control`."""

POWER = 0.8
"""The probability with which a difference is found that is reported as the smallest to be found."""

MIN_SEEDS = 3
"""The number of seeds that an interval and a test need. With two, Student's t has one degree of
freedom, and it is not defined if both differences happen to be equal."""

_CONDITIONS = {
    "equal": "All students have the same number of epochs, start weights, order of batches, splits "
    "and selection criteria. Methods with several phases keep an epoch of the last one. Teachers "
    "are selected by the same criterion; those of MST-Distill are kept as `teachers.keep` says. "
    "Seconds exclude the training of the teachers, which all methods share. The baseline is the "
    "student trained without a teacher; controls have no other modality either.",
    "reference": "Every method has its own budget, as in the paper's tables; see the column of "
    "student epochs. Seconds exclude the training of the teachers, which all methods share. The "
    "baseline is the student trained without a teacher.",
}


_CAVEATS = (
    "The best control and the best other method are those with the largest mean on these test "
    "samples, which favours them. Tests of likelihoods are not corrected for their number."
)


def metrics_of(metric: Metric) -> list[str]:
    """The columns of the metrics of a trial, that of the metric that decides first."""
    return list(dict.fromkeys([metric.name, *METRICS]))


def compared_columns(metric: Metric) -> dict[str, str]:
    """What methods are compared by, `DECIDING` and `PROBABILITIES`, to its column."""
    return {DECIDING: metric.name, **{name: name for name in PROBABILITIES}}


def rank(trials: pd.DataFrame, selection: str, metric: Metric = ACCURACY) -> pd.DataFrame:
    """Compute means and standard deviations over the seeds.

    Args:
        trials: From `run_trials`.
        selection: The criterion whose metrics get standard deviations and costs.
        metric: The metric that decides.

    Returns:
        One row for each target and title (method and teacher), the best of a target first:
        ``runs``, ``missing``, `metrics_of` with their ``_sd``, the same by every other criterion,
        ``_by_CRITERION``, and `COSTS`.
    """
    names = metrics_of(metric)
    trials = trials.reindex(columns=[*trials.columns.union([*names, *COSTS], sort=False)])
    all_trials = trials.groupby(["target", "title"], sort=False)
    selected = trials[trials["selection"] == selection].groupby(["target", "title"], sort=False)
    table = pd.DataFrame({"missing": all_trials["error"].agg(lambda errors: (errors != "").sum())})
    table.insert(0, "runs", selected.size().reindex(table.index, fill_value=0))
    for name in names:
        table[name] = selected[name].mean()
        table[f"{name}_sd"] = selected[name].std()
    for criterion in _criteria(trials, selection)[1:]:
        of_criterion = trials[trials["selection"] == criterion].groupby(
            ["target", "title"], sort=False
        )
        for name in names:
            table[f"{name}_by_{criterion}"] = of_criterion[name].mean()
    for cost in COSTS:
        table[cost] = selected[cost].mean()
    order = ["target", metric.name]
    return table.reset_index().sort_values(order, ascending=[True, False], ignore_index=True)


def difference_table(
    trials: pd.DataFrame,
    baseline: str | None,
    selection: str,
    confidence: float,
    controls: Collection[str] = (),
    metric: Metric = ACCURACY,
) -> pd.DataFrame:
    """Compare every method with the baseline, the best control and the best other, seed by seed.

    Intervals and tests are Student's for paired samples, over seeds: they state what other seeds
    would give on these held-out samples, not what other samples would. The p-values of one target,
    criterion and comparator are corrected together by the method of Holm, "A Simple Sequentially
    Rejective Multiple Test Procedure", 1979. The best control and the best other method are those
    with the largest mean on the same held-out samples, which is a selection in their favour.

    Args:
        trials: From `run_trials`.
        baseline: The title of the baseline, or None if it was not trained.
        selection: The run's own criterion; it comes first.
        confidence: Of the interval, in (0, 1).
        controls: The titles of the methods without another modality, without the baseline.
        metric: The metric that decides.

    Returns:
        One row for each target, criterion, comparator and title: ``against`` (the baseline,
        `BEST_CONTROL` or `BEST_OTHER`), ``comparator``, ``pairs``, ``difference``, ``sd``, ``low``,
        ``high`` (accuracy: 1 = 100 points), ``p``, ``p_corrected``; and of `PROBABILITIES` (above 0
        is worse) the mean difference and its ``_p``, which is not corrected. Values that are not
        defined are NaN, see `paired`.
    """
    others = [name for of in PROBABILITIES for name in (of, f"{of}_p")]
    known = ["target", "selection", "against", "title", "comparator", *others]
    tables = [pd.DataFrame(columns=known)]
    for target in dict.fromkeys(trials["target"]):
        for criterion in _criteria(trials, selection):
            rows = trials[(trials["target"] == target) & (trials["selection"] == criterion)]
            if len(rows):
                scores = {
                    name: rows.pivot_table(column, "seed", "title")
                    for name, column in compared_columns(metric).items()
                }
                comparators = {
                    **({baseline: [baseline]} if baseline else {}),
                    **({BEST_CONTROL: list(controls)} if controls else {}),
                    BEST_OTHER: list(scores[DECIDING]),
                }
                skipped = {*controls, baseline}
                for against, candidates in comparators.items():
                    titles = [
                        title
                        for title in scores[DECIDING]
                        if against != BEST_CONTROL or title not in skipped
                    ]
                    table = pd.DataFrame(_against(scores, titles, candidates, confidence))
                    tables.append(table.assign(target=target, selection=criterion, against=against))
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def mean_interval(values: pd.Series, confidence: float) -> tuple[float, float, float]:
    """Compute a mean over seeds and Student's interval of it.

    Args:
        values: One value for each seed.
        confidence: The level of the interval, in (0, 1).

    Returns:
        The mean and both ends, which are NaN with fewer than `MIN_SEEDS` seeds.
    """
    mean, low, high = float(values.mean()), float("nan"), float("nan")
    if len(values) >= MIN_SEEDS:
        half = stats.sem(values) * stats.t.ppf((1 + confidence) / 2, len(values) - 1)
        low, high = mean - half, mean + half
    return mean, low, high


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values by Holm's method, ``(n,)`` to ``(n,)``.

    NaN stays NaN and does not count as a comparison.
    """
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return corrected


def to_baseline(differences: pd.DataFrame) -> pd.DataFrame:
    """Return the differences to the baseline, from `difference_table`."""
    return differences[~differences["against"].isin([BEST_CONTROL, BEST_OTHER])]


def conclude(
    differences: pd.DataFrame, confidence: float, against: str | None = None
) -> dict[str, dict[str, list[str]]]:
    """Sort the methods into better than, worse than and not separable from a comparator.

    A method is better if its difference is above zero under every selection criterion, and beyond
    chance under the run's own and under at least one other; a difference that only one criterion
    shows does not count.

    Args:
        differences: From `difference_table`; the run's own criterion comes first.
        confidence: One minus the level of the tests.
        against: `BEST_CONTROL` or `BEST_OTHER`; by default the comparator is the baseline.

    Returns:
        Target to the titles under ``better``, ``worse`` and ``undecided``.
    """
    conclusions: dict[Any, dict[str, list[Any]]] = {}
    rows_of = to_baseline(differences)
    if against is not None:
        rows_of = differences[differences["against"] == against]
    for (target, title), rows in rows_of.groupby(["target", "title"], sort=False):
        found = rows["p_corrected"] < 1 - confidence
        significant = found.iloc[0] and found.sum() >= 2
        kind = "undecided"
        if significant and (rows["difference"] > 0).all():
            kind = "better"
        elif significant and (rows["difference"] < 0).all():
            kind = "worse"
        conclusions.setdefault(target, {"better": [], "worse": [], "undecided": []})[kind].append(
            title
        )
    return conclusions


def likelihoods(
    differences: pd.DataFrame, selection: str, confidence: float
) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Sort out the methods with a likelihood measurably different from the baseline's.

    A method that is correct more often may still give the labels smaller probabilities. Conversely,
    a gain may be no more than the temperature that the baseline lacks.

    Returns:
        Target to ``nll`` and ``nll_scaled``, each with the titles under ``better`` and ``worse``.
    """
    rows = to_baseline(differences).query("selection == @selection")
    found: dict[str, dict[str, dict[str, list[str]]]] = {}
    for target, of_target in rows.groupby("target"):
        for metric in ("nll", "nll_scaled"):
            measurable = of_target[of_target[f"{metric}_p"] < 1 - confidence]
            found.setdefault(str(target), {})[metric] = {
                "better": list(measurable.loc[measurable[metric] < 0, "title"]),
                "worse": list(measurable.loc[measurable[metric] > 0, "title"]),
            }
    return found


def report_on(
    trials: pd.DataFrame,
    ranking: pd.DataFrame,
    differences: pd.DataFrame,
    compare: Compare,
    selection: str,
    confidence: float,
    settings: pd.DataFrame | None = None,
    metric: Metric = ACCURACY,
) -> dict[str, Any]:
    """Summarise a comparison in a few sentences and numbers.

    Args:
        trials: From `run_trials`.
        ranking: From `rank`.
        differences: From `difference_table`.
        compare: The parameters.
        selection: The run's own criterion.
        confidence: Of intervals and tests.
        settings: From `choose_settings`.
        metric: The metric that decides.

    Returns:
        ``heading``, ``terms`` (the conditions of the comparison), ``metric`` (its setting),
        ``selection``, ``confidence``, ``baseline`` (its title, or None), ``verdicts`` and
        ``limits`` (target to sentences),
        ``conclusions`` (see `conclude`), ``missing`` (trials that failed: ``target``, ``title``,
        ``seed``, ``error``), the name of the metric (target to title to mean) and ``settings``
        (rows of the table, if there was a choice).
    """
    conclusions = conclude(differences, confidence)
    tested = differences[differences["p_corrected"].notna()] if len(differences) else differences
    over_controls = conclude(tested, confidence, BEST_CONTROL)
    untested = _untested(differences)
    likely = likelihoods(differences, selection, confidence)
    failed = trials.loc[trials["error"] != "", ["target", "title", "seed", "error"]]
    finished = ranking[ranking["runs"] > 0]
    combinations, seeds = trials["title"].nunique(), trials["seed"].nunique()
    return {
        "heading": f"{combinations} combinations of method and teacher, {seeds} seeds",
        "terms": f"{_CONDITIONS[compare.budget]} {_tuning_terms(compare)} {_CAVEATS}",
        "metric": metric.setting,
        "selection": selection,
        "confidence": confidence,
        "baseline": next(iter(to_baseline(differences)["against"]), None),
        "verdicts": {
            target: list(
                _sentences(
                    finished[finished["target"] == target],
                    conclusions,
                    over_controls.get(target),
                    untested,
                    likely.get(target, {}),
                    metric,
                )
            )
            for target in dict.fromkeys(trials["target"])
        },
        "limits": {
            target: list(_limits_of(target, finished, differences, selection, confidence, metric))
            for target in dict.fromkeys(trials["target"])
        },
        "conclusions": conclusions,
        "missing": failed.to_dict(orient="records"),
        metric.name: {
            target: rows.set_index("title")[metric.name].to_dict()
            for target, rows in finished.groupby("target", sort=False)
        },
        "settings": []
        if settings is None or not compare.tuning_seeds
        else json_values(settings.to_dict(orient="records")),
    }


def _tuning_terms(compare: Compare) -> str:
    """State how the constants of the methods were chosen."""
    if not compare.tuning_seeds:
        return "Every method has its first setting; none was tuned on these data."
    most = max(len(method.choices) for method in compare.methods.values())
    plural = "s" * (compare.tuning_seeds > 1)
    return (
        f"Every method with constants of its own chose one of up to {most} settings by validation, "
        f"on {compare.tuning_seeds} other seed{plural}; see the table of settings."
    )


def smallest_found(sd: float, pairs: int, level: float) -> float:
    """The true difference that a paired t-test finds with the probability `POWER`.

    The power of the two-sided test is that of the noncentral t distribution; see Cohen,
    "Statistical Power Analysis for the Behavioral Sciences", 1988, chapter 2.

    Args:
        sd: The standard deviation of the differences, at least 0.
        pairs: The number of pairs, at least 2.
        level: The level of the test, in (0, 1).

    Returns:
        The difference, in the unit of `sd`.
    """
    freedom = pairs - 1
    critical = stats.t.isf(level / 2, freedom)

    def excess(shift: float) -> float:
        # Nothing of note is beyond the other end, where scipy's values are not always defined.
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    largest = 2.0
    while excess(largest) < 0:
        largest *= 2
    shift: float = optimize.brentq(excess, 0.0, largest)
    return shift * sd / float(np.sqrt(pairs))


def _limits_of(
    target: str,
    ranking: pd.DataFrame,
    differences: pd.DataFrame,
    selection: str,
    confidence: float,
    metric: Metric,
) -> Iterator[str]:
    """State what these seeds could have found, and what another criterion makes of the baseline."""
    own = to_baseline(differences).query("target == @target and selection == @selection")
    own = own[own["pairs"] >= MIN_SEEDS] if len(own) else own
    if len(own) and (sd := own["sd"].median()) > 0:
        pairs, level = int(own["pairs"].max()), 1 - confidence
        single, corrected = (smallest_found(sd, pairs, level / by) for by in (1, len(own)))
        yield (
            f"With {pairs} seeds, a true difference of {metric.amount(single)} would be found "
            f"with a probability of {POWER:.0%}, and one of {metric.amount(corrected)} after the "
            f"correction for {len(own)} comparison{'s' * (len(own) > 1)}."
        )
    for baseline in to_baseline(differences)["against"].unique():
        row = ranking[(ranking["target"] == target) & (ranking["title"] == baseline)]
        if len(row) and f"{metric.name}_by_ce" in row:
            lost = float((row[metric.name] - row[f"{metric.name}_by_ce"]).iloc[0])
            if metric.scale * lost >= 1:
                yield (
                    f"By the smallest validation cross-entropy, an epoch of the baseline is "
                    f"selected that is {metric.amount(lost)} worse; every method would look as "
                    f"much better against it."
                )


def _untested(differences: pd.DataFrame) -> dict[str, int]:
    """Map each target without a method that has enough seeds for a test to its number of seeds."""
    rows = to_baseline(differences)
    if rows.empty:
        return {}
    pairs = rows.groupby("target", sort=False)["pairs"].max()
    return {str(target): int(most) for target, most in pairs.items() if most < MIN_SEEDS}


def _sentences(
    ranking: pd.DataFrame,
    conclusions: dict[str, dict[str, list[str]]],
    over_controls: dict[str, list[str]] | None,
    untested: dict[str, int],
    likely: dict[str, dict[str, list[str]]],
    metric: Metric,
) -> Iterator[str]:
    if ranking.empty:
        yield "No trial finished."
        return
    best, target = ranking.iloc[0], ranking["target"].iloc[0]
    value = f"{metric.scale * best[metric.name]:{metric.spec()}}{' %' * metric.percent}"
    yield f"Best mean {metric.title}: {best['title']} with {value}."
    if target in untested:
        seeds = untested[target]
        yield (
            f"Whether any method is better than the {target} baseline cannot be determined from "
            f"{seeds} seed{'s' * (seeds > 1)}: intervals and tests need at least {MIN_SEEDS}."
        )
        return
    for kind in ("better", "worse") if target in conclusions else ():
        names = ", ".join(conclusions[target][kind]) or "no method"
        yield f"{kind.capitalize()} than the {target} baseline, beyond chance: {names}."
    if over_controls is not None:
        names = ", ".join(over_controls["better"]) or "no method"
        yield f"Better than the best control without another modality, beyond chance: {names}."
    for kind in ("better", "worse"):
        if likely and (names := ", ".join(likely["nll"][kind])):
            yield f"Measurably {kind} likelihood than the {target} baseline: {names}."
    if any(titles for kinds in likely.values() for titles in kinds.values()):
        better, worse = (
            ", ".join(likely["nll_scaled"][kind]) or "no method" for kind in ("better", "worse")
        )
        yield f"After temperature scaling, measurably better: {better}; measurably worse: {worse}."
        gone = [
            name for name in likely["nll"]["better"] if name not in likely["nll_scaled"]["better"]
        ]
        if gone:
            yield (
                f"With one temperature for the baseline and one for the method, the better "
                f"likelihood of {', '.join(gone)} is no longer measurable."
            )


def _against(
    scores: Mapping[str, pd.DataFrame],
    titles: Sequence[str],
    candidates: Sequence[str],
    confidence: float,
) -> list[dict[str, Any]]:
    """Compare titles with the best candidate; each table of `scores` is ``(seeds, titles)``.

    A candidate with fewer seeds than another is not the best, whatever its mean.
    """
    rows: list[dict[str, Any]] = []
    deciding = scores[DECIDING]
    seeds, means = deciding.count(), deciding.mean()
    for title in titles:
        others = [name for name in candidates if name in deciding and name != title]
        others = [name for name in others if seeds[name] == seeds[others].max()]
        if others:
            comparator = str(means[others].idxmax())
            gains = {
                metric: (table[title] - table[comparator]).dropna().to_numpy()
                for metric, table in scores.items()
            }
            row = {"title": title, "comparator": comparator}
            rows.append({**row, **paired_metrics(gains, confidence)})
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_corrected"] = p
    return rows


def paired(gain: np.ndarray, confidence: float, shared: float = 0.0) -> dict[str, float]:
    """Compute mean, standard deviation, interval and test of the differences, ``(pairs,)``.

    Differences of folds are correlated, because their training samples are largely the same. The
    variance of their mean is then taken as (1 / n + shared) s^2, and not as s^2 / n: Nadeau and
    Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003, equation 7.

    Args:
        gain: The differences.
        confidence: Of the interval, in (0, 1).
        shared: The number of test samples over that of training samples, if the differences are of
            folds, else 0.

    Returns:
        ``pairs``, ``difference``, ``sd``, ``low``, ``high`` and ``p``. Fewer than `MIN_SEEDS` pairs
        give neither interval nor test, and fewer than two no standard deviation: these are NaN.
        Student's t is not defined if all differences are equal: there is no interval then, and p is
        1 if they are 0, as in any paired test, and NaN otherwise.
    """
    found = {
        "pairs": len(gain),
        "difference": gain.mean() if len(gain) else np.nan,
        "sd": gain.std(ddof=1) if len(gain) > 1 else np.nan,
        **dict.fromkeys(("low", "high", "p"), np.nan),
    }
    if len(gain) < MIN_SEEDS:
        return found
    if np.ptp(gain) < 1e-12:  # the test divides by the standard deviation
        return found | {"p": np.nan if found["difference"] else 1.0}
    if shared:
        error = found["sd"] * np.sqrt(1 / len(gain) + shared)
        half = stats.t.isf((1 - confidence) / 2, len(gain) - 1) * error
        p = 2 * stats.t.sf(abs(found["difference"]) / error, len(gain) - 1)
        ends = {"low": found["difference"] - half, "high": found["difference"] + half}
        return found | ends | {"p": p}
    test = stats.ttest_1samp(gain, 0.0)
    interval = test.confidence_interval(confidence)
    return found | {"low": interval.low, "high": interval.high, "p": test.pvalue}


def paired_metrics(
    gains: Mapping[str, np.ndarray], confidence: float, shared: float = 0.0
) -> dict[str, float]:
    """Test the differences of all metrics, ``(pairs,)`` each.

    Returns:
        `paired` of `DECIDING`, and of `PROBABILITIES` the mean difference and its ``_p``.
    """
    row = paired(gains[DECIDING], confidence, shared)
    for metric in PROBABILITIES:
        other = paired(gains[metric], confidence, shared)
        row |= {metric: other["difference"], f"{metric}_p": other["p"]}
    return row


def _criteria(trials: pd.DataFrame, selection: str) -> list[str]:
    """List all selection criteria of the trials, the run's own first."""
    found = [criterion for criterion in dict.fromkeys(trials["selection"]) if criterion]
    return [selection, *[criterion for criterion in found if criterion != selection]]
