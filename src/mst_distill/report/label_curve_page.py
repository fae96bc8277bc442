"""The curve over the share of labels as one file of HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml

from mst_distill.compare.label_curve import (
    BestMethod,
    best_methods,
    label_curve_gains,
    label_curve_table,
)
from mst_distill.compare.markdown import format_intervals
from mst_distill.compare.ranking import MIN_SEEDS
from mst_distill.metric import ACCURACY, Metric
from mst_distill.report.rendering import render_html
from mst_distill.report.tables import NONE, origin_table


@dataclass(frozen=True)
class CurveResults:
    """The results of the pipeline `label_curve`, and how they are compared.

    Attributes:
        trials: From `run_label_curve`.
        labels: From `label_counts`.
        selection: The criterion by which epochs are selected.
        confidence: The level of the intervals, in (0, 1).
        baseline: The title of the baseline, or None if there is none.
        pseudo_labels: The names of the methods with pseudo-labels alone.
        metric: The metric that decides.
    """

    trials: pd.DataFrame
    labels: pd.DataFrame
    selection: str
    confidence: float
    baseline: str | None
    pseudo_labels: frozenset[str]
    metric: Metric = ACCURACY

    @property
    def targets(self) -> list[str]:
        """The students' modalities."""
        return list(dict.fromkeys(self.trials["target"]))

    def best(self, target: str) -> list[BestMethod]:
        """The best method of a target for each share below 1, see `best_methods`."""
        of_target = self.trials[self.trials["target"] == target]
        return best_methods(
            of_target,
            self.selection,
            self.confidence,
            self.baseline,
            self.pseudo_labels,
            self.metric,
        )


def label_curve_page(
    results: CurveResults, figure: bytes, benchmark: str, parameters: Mapping[str, Any]
) -> str:
    """Write the report on the curve.

    Args:
        results: The trials of all targets, shares and seeds.
        figure: The PNG of `label_curve_figure`.
        benchmark: Import path of the source of the samples.
        parameters: All parameters that count; JSON values.
    """
    trials, level = results.trials, f"{results.confidence:.0%}"
    targets = results.targets
    students = f"{_listed(targets)} student{'s' * (len(targets) > 1)}"
    seeds = sorted(trials["seed"].unique())
    failed = trials.loc[trials["error"] != "", ["target", "labelled", "title", "seed", "error"]]
    return render_html(
        "label_curve.html",
        title=f"{benchmark.rpartition('.')[2]}: the {students} over the share of labels",
        subtitle=f"{trials['method'].nunique()} methods, {trials['labelled'].nunique()} shares of "
        f"the training labels, {_counted(len(seeds))}",
        targets=_sections(results),
        baseline=results.baseline,
        level=level,
        metric=results.metric,
        selection=results.metric.title
        if results.selection == results.metric.name
        else results.selection,
        pseudo_labels=sorted(results.pseudo_labels & set(trials["method"])),
        caption=f"Test {results.metric.title} of each method over the share of labels, the mean "
        "over the seeds" + (f" with {level} intervals." if len(seeds) >= MIN_SEEDS else "."),
        figure=figure,
        labels=_labels_table(results.labels),
        failed=None
        if failed.empty
        else failed.assign(labelled=failed["labelled"].map(percent)).rename(
            columns={"labelled": "labels", "title": "method"}
        ),
        parameters=yaml.safe_dump(dict(parameters), sort_keys=False, allow_unicode=True),
        origin=origin_table({"benchmark": benchmark}),
    )


def percent(share: float) -> str:
    """Write a share in (0, 1] as a percentage with as many digits as it has."""
    return f"{100 * share:g}%"


def share_table(
    rows: pd.DataFrame,
    column: str,
    count: str,
    seeds: int,
    spec: str,
    shares: Sequence[float],
    scale: float = 100,
) -> pd.DataFrame:
    """Arrange the values of one target: a row for each method, a column for each share of labels.

    A cell is the value, by default in percent or points, with half the width of its interval, if it
    has one. A cell of fewer than `seeds` seeds states their number. A missing value is a dash.

    Args:
        rows: ``title``, ``labelled``, ``low``, ``high`` and the next two.
        column: The column of the values.
        count: The column of the number of seeds.
        seeds: The number of seeds of the trials.
        spec: The format specification of the values.
        shares: The columns, ascending.
        scale: The factor of the values.
    """
    cells: dict[tuple[str, float], str] = {}
    for row in rows.to_dict(orient="records"):
        if pd.isna(row[column]):
            continue
        text = format(scale * row[column], spec)
        if not pd.isna(row["low"]):
            text += f" ± {scale * (row['high'] - row['low']) / 2:{spec.lstrip('+z')}}"
        if row[count] < seeds:
            text += f" ({_counted(int(row[count]))})"
        cells[row["title"], row["labelled"]] = text
    titles = list(dict.fromkeys(rows["title"]))
    columns = {
        percent(share): [cells.get((title, share), NONE) for title in titles] for share in shares
    }
    return pd.DataFrame({"method": titles, **columns})


def summary(best: Sequence[BestMethod], baseline: str | None) -> str:
    """Return one sentence on where the best method of a target is better than the baseline.

    Args:
        best: The best methods of one target, see `best_methods`.
        baseline: The title of the baseline, or None if there is none.
    """
    pairs = max((int(method.gain["pairs"]) for method in best), default=0)
    if not best:
        return "No trial of a method other than the baseline with a share of the labels finished."
    if not pairs:
        return "No gain can be computed, since no seed has trials of the baseline and the method."
    if pairs < MIN_SEEDS:
        return (
            f"Whether any method is better than {baseline} cannot be determined from "
            f"{_counted(pairs)}: intervals need at least {MIN_SEEDS}."
        )
    better = [method for method in best if method.gain["low"] > 0]
    if not better:
        enough = [method for method in best if method.gain["pairs"] >= MIN_SEEDS]
        listed = _listed([percent(method.share) for method in enough])
        return f"With {listed} of the labels, no best method is measurably better than {baseline}."
    listed = _listed([percent(method.share) for method in better])
    start = f"With {listed} of the labels, the best method is measurably better than {baseline}"
    if not any(method.pseudo_labels for method in better):
        return f"{start}; pseudo-labels, which may give the same gain, have no trials."
    more = [percent(method.share) for method in better if method.over_pseudo_labels["low"] > 0]
    if not more:
        return f"{start}, but never measurably better than pseudo-labels alone."
    same = "and also" if len(more) == len(better) else f"and with {_listed(more)} also"
    return f"{start}, {same} measurably better than pseudo-labels alone."


def sentence(
    best: BestMethod, baseline: str | None, confidence: float, metric: Metric = ACCURACY
) -> str:
    """State what the best method of one target and share gains over baseline and pseudo-labels.

    Args:
        best: See `best_methods`.
        baseline: The title of the baseline, or None if there is none.
        confidence: The level of the intervals, in (0, 1).
        metric: The metric that decides.
    """
    return " ".join(_clauses(best, baseline, confidence, metric))


def _clauses(
    best: BestMethod, baseline: str | None, confidence: float, metric: Metric
) -> Iterator[str]:
    start = f"With {percent(best.share)} of the labels, {best.title} is the best method with a "
    start += f"mean {metric.title} of {metric.text(best.value)}"
    if not best.gain["pairs"]:
        yield f"{start}; there is no trial of a baseline with the same seed."
    else:
        found = _direction(best.gain, "gain", "loss")
        yield f"{start}, {_points(best.gain, confidence, metric)} against {baseline}: {found}."
    if best.pseudo_labels == best.title:
        yield "It uses pseudo-labels alone, and no other method has a larger mean."
    elif not best.pseudo_labels:
        yield "Pseudo-labels have no trials here; they alone may give as much."
    elif best.over_pseudo_labels["pairs"]:
        over = best.over_pseudo_labels
        found = _direction(over, "gain over pseudo-labels alone", "loss against them")
        yield f"Against {best.pseudo_labels} it is {_points(over, confidence, metric)}: {found}."


def _direction(difference: Mapping[str, float], gain: str, loss: str) -> str:
    if difference["pairs"] < MIN_SEEDS:
        return "whether this is beyond chance cannot be determined"
    if difference["low"] > 0:
        return f"a measurable {gain}"
    return f"a measurable {loss}" if difference["high"] < 0 else f"no measurable {gain}"


def _points(difference: dict[str, float], confidence: float, metric: Metric) -> str:
    spec = f"+z{metric.spec(1)}"
    (interval,) = format_intervals(pd.DataFrame([difference]), spec, scale=metric.scale)
    if not pd.isna(difference["low"]):
        interval = f"{confidence:.0%} interval {interval}"
    unit = " points" * metric.percent
    return f"{metric.scale * difference['difference']:{spec}}{unit} ({interval})"


def _sections(results: CurveResults) -> dict[str, dict[str, Any]]:
    """Map each target to its summary, sentences and tables."""
    trials, selection, confidence = results.trials, results.selection, results.confidence
    metric = results.metric
    curve = label_curve_table(trials, selection, confidence, metric)
    gains = label_curve_gains(trials, selection, confidence, results.baseline, metric)
    spec, scale = metric.spec(1), metric.scale
    sections = {}
    for target in results.targets:
        of_target = trials[trials["target"] == target]
        seeds, shares = of_target["seed"].nunique(), sorted(of_target["labelled"].unique())
        values, gain = (table[table["target"] == target] for table in (curve, gains))
        best = results.best(target)
        sections[target] = {
            "summary": summary(best, results.baseline),
            "sentences": [
                sentence(method, results.baseline, confidence, metric) for method in best
            ],
            "means": share_table(values, metric.name, "seeds", seeds, spec, shares, scale),
            "gains": share_table(gain, "difference", "pairs", seeds, f"+z{spec}", shares, scale),
        }
    return sections


def _labels_table(labels: pd.DataFrame) -> pd.DataFrame:
    counts = {
        percent(row["labelled"]): [f"{int(row[split]):,}" for split in ("train", "valid")]
        for row in labels.to_dict(orient="records")
    }
    return pd.DataFrame({"labels": ["training", "validation"], **counts})


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds != 1)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
