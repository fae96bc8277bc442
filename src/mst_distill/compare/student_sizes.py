"""Students of several sizes: what they cost, and what they reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from mst_distill.compare.ranking import mean_interval

COSTS = {
    "parameters": "weights",
    "multiply_adds": "multiply-adds of a sample",
    "bytes": "bytes of the ONNX file",
    "milliseconds": "milliseconds of a sample",
}
"""The costs that are drawn, with their names."""

REACHED = ["method", "accuracy", "low", "high", "seeds"]


def size_table(
    costs: pd.DataFrame, trials: pd.DataFrame, selection: str, baseline: str | None, level: float
) -> pd.DataFrame:
    """Join costs and accuracies of students.

    The method of a student is the one with the largest mean validation accuracy, so that it is not
    chosen on the test samples on which it is shown.

    Args:
        costs: A row for each student, with ``student``, ``modality`` and ``type``, and the
            columns of `costs_of`.
        trials: From `run_trials`.
        selection: The criterion by which epochs are selected.
        baseline: The title of the baseline, or None if it was not trained.
        level: The level of the intervals, in (0, 1).

    Returns:
        For each student a row for the baseline and one for its method: the columns of `costs`,
        ``method``, ``accuracy`` (the mean over the seeds, in [0, 1]), ``low`` and ``high``
        (Student's interval of the mean over the seeds; missing with fewer than `MIN_SEEDS`),
        ``seeds``, and ``beaten_by``: a student of the same modality whose method is at least as
        accurate in less time, or an empty text.
    """
    rows: list[dict[Any, Any]] = []
    finished = trials[(trials["error"] == "") & (trials["selection"] == selection)]
    for cost in costs.to_dict(orient="records"):
        of_student = finished[finished["target"] == cost["student"]]
        means = of_student.groupby("title", sort=False)[["valid_accuracy"]].mean()
        others = means.drop(index=[baseline] if baseline in means.index else [])
        titles = [baseline] if baseline in means.index else []
        titles += [others["valid_accuracy"].idxmax()] if len(others) else []
        for title in titles:
            accuracy = of_student.loc[of_student["title"] == title, "accuracy"]
            reached = (title, *mean_interval(accuracy, level), len(accuracy))
            rows.append({**cost, **dict(zip(REACHED, reached, strict=True))})
    table = pd.DataFrame(rows, columns=[*costs.columns, *REACHED])
    best = table[table["method"] != baseline] if baseline else table
    return table.assign(beaten_by=[_beaten_by(row, best) for _, row in table.iterrows()])


def _beaten_by(row: pd.Series, best: pd.DataFrame) -> str:
    """The most accurate student that is better in both, for the method of a student."""
    better = best[
        (best["modality"] == row["modality"])
        & (best["student"] != row["student"])
        & (best["accuracy"] >= row["accuracy"])
        & (best["milliseconds"] < row["milliseconds"])
    ]
    if not len(better) or row["method"] not in set(best["method"]):
        return ""
    return str(better.sort_values("accuracy")["student"].iloc[-1])


def size_sentences(sizes: pd.DataFrame, baseline: str | None) -> Iterator[str]:
    """State for each modality the fastest student and what accuracy costs.

    Args:
        sizes: From `size_table`.
        baseline: The title of the baseline, or None.
    """
    best = sizes[sizes["method"] != baseline] if baseline else sizes
    for modality, students in best.groupby("modality", sort=False):
        if len(students) < 2:
            continue
        fast = students.sort_values("milliseconds").iloc[0]
        good = students.sort_values("accuracy").iloc[-1]
        text = (
            f"Of the students of {modality}, {fast['student']} is the fastest: "
            f"{fast['milliseconds']:.3g} ms for a sample, {fast['accuracy']:.1%}"
        )
        if good["student"] == fast["student"]:
            yield f"{text}, which is also the largest mean accuracy."
            continue
        times = good["milliseconds"] / fast["milliseconds"]
        yield (
            f"{text}. {good['student']} has the largest mean accuracy, {good['accuracy']:.1%}, in "
            f"{times:.2g} times the time."
        )
