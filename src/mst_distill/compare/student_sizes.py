"""Students of several sizes: what they cost, and what they reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mst_distill.compare.ranking import mean_interval
from mst_distill.metric import ACCURACY, Metric
from mst_distill.training.selection import metric_in

COSTS = {
    "parameters": "weights",
    "multiply_adds": "multiply-adds of a sample",
    "bytes": "bytes of the ONNX file",
    "milliseconds": "milliseconds of a sample",
}
"""The costs that are drawn, with their names."""


def size_table(
    costs: pd.DataFrame,
    trials: pd.DataFrame,
    selection: str,
    baseline: str | None,
    level: float,
    metric: Metric = ACCURACY,
) -> pd.DataFrame:
    """Join costs and metrics of students.

    The method of a student is the one with the largest mean on the validation split, so that it is
    not chosen on the test samples on which it is shown.

    Args:
        costs: A row for each student, with ``student``, ``modality`` and ``type``, and the
            columns of `costs_of`.
        trials: From `run_trials`.
        selection: The criterion by which epochs are selected.
        baseline: The title of the baseline, or None if it was not trained.
        level: The level of the intervals, in (0, 1).
        metric: The metric that decides.

    Returns:
        For each student a row for the baseline and one for its method: the columns of `costs`,
        ``method``, the metric by its name (the mean over the seeds), ``low`` and ``high``
        (Student's interval of the mean over the seeds; missing with fewer than `MIN_SEEDS`),
        ``seeds``, and ``beaten_by``: a student of the same modality whose method is at least as
        good in less time, or an empty text.
    """
    rows: list[dict[Any, Any]] = []
    reached = ["method", metric.name, "low", "high", "seeds"]
    finished = trials[(trials["error"] == "") & (trials["selection"] == selection)]
    for cost in costs.to_dict(orient="records"):
        of_student = finished[finished["target"] == cost["student"]]
        valid = [metric_in(row, metric.name) for row in of_student.to_dict(orient="records")]
        means = of_student.assign(valid=valid).groupby("title", sort=False)[["valid"]].mean()
        others = means.drop(index=[baseline] if baseline in means.index else [])
        titles = [baseline] if baseline in means.index else []
        titles += [others["valid"].idxmax()] if len(others) else []
        for title in titles:
            values = of_student.loc[of_student["title"] == title, metric.name]
            found = (title, *mean_interval(values, level), len(values))
            rows.append({**cost, **dict(zip(reached, found, strict=True))})
    table = pd.DataFrame(rows, columns=[*costs.columns, *reached])
    best = table[table["method"] != baseline] if baseline else table
    return table.assign(beaten_by=[_beaten_by(row, best, metric) for _, row in table.iterrows()])


def _beaten_by(row: pd.Series, best: pd.DataFrame, metric: Metric) -> str:
    """The best student that is better in both, for the method of a student."""
    better = best[
        (best["modality"] == row["modality"])
        & (best["student"] != row["student"])
        & (best[metric.name] >= row[metric.name])
        & (best["milliseconds"] < row["milliseconds"])
    ]
    if not len(better) or row["method"] not in set(best["method"]):
        return ""
    return str(better.sort_values(metric.name)["student"].iloc[-1])


def size_sentences(
    sizes: pd.DataFrame, baseline: str | None, metric: Metric = ACCURACY
) -> Iterator[str]:
    """State for each modality the fastest student and what the best one costs.

    Args:
        sizes: From `size_table`.
        baseline: The title of the baseline, or None.
        metric: The metric that decides.
    """
    best = sizes[sizes["method"] != baseline] if baseline else sizes
    for modality, students in best.groupby("modality", sort=False):
        if len(students) < 2:
            continue
        fast = students.sort_values("milliseconds").iloc[0]
        good = students.sort_values(metric.name).iloc[-1]
        of_fast, of_good = (metric.text(of[metric.name]) for of in (fast, good))
        text = (
            f"Of the students of {modality}, {fast['student']} is the fastest: "
            f"{fast['milliseconds']:.3g} ms for a sample, {of_fast}"
        )
        if good["student"] == fast["student"]:
            yield f"{text}, which is also the largest mean {metric.title}."
            continue
        times = good["milliseconds"] / fast["milliseconds"]
        yield (
            f"{text}. {good['student']} has the largest mean {metric.title}, {of_good}, in "
            f"{times:.2g} times the time."
        )
