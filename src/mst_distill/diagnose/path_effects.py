"""The effect of each path on the student, by class: the paper's figure 1, top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mst_distill.diagnose.prediction_matrix import PredictionMatrix
from mst_distill.evaluate.bootstrap import Bootstrap

ALL = "(all)"
"""Value of the column ``class`` in the row of all classes together."""


def path_title(source: str) -> str:
    """Return the name of the student that was distilled from one source alone."""
    return f"student of {source}"


def path_table(
    matrix: PredictionMatrix,
    baseline: str,
    classes: Sequence[str],
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """Compare the student of every path with the baseline.

    Args:
        matrix: Outcomes of the students, named by `path_title`, and of the baseline.
        baseline: Name of the baseline.
        classes: Class names in order; none if labels are dense.
        bootstrap: Settings of the intervals; for a class it resamples only that class.

    Returns:
        One row for each source and class, first the row of all classes: ``source``, ``class``,
        ``samples``, ``accuracy`` and ``baseline`` (shares in [0, 1]), and their difference in
        ``points`` with ``low`` and ``high``. ``low`` and ``high`` are NaN without an interval, and
        all numbers but ``samples`` are NaN for a class without held-out samples.
    """
    prefix = path_title("")
    paths = [model.removeprefix(prefix) for model in matrix.models if model.startswith(prefix)]
    compared = matrix.take([baseline, *map(path_title, paths)])
    rows: dict[str, np.ndarray] = {ALL: np.arange(len(compared.ids))}
    rows |= {
        name: np.flatnonzero((compared.labels == label) & (compared.labelled > 0))
        for label, name in enumerate(classes)
    }
    records = []
    for name, of_class in rows.items():
        metrics = _compare(
            compared.correct[of_class],
            compared.labelled[of_class],
            compared.groups[of_class],
            bootstrap,
        )
        records += [
            {"source": source, "class": name, "samples": len(of_class), **of_path}
            for source, of_path in zip(paths, metrics, strict=True)
        ]
    table = pd.DataFrame(records)
    order = {source: position for position, source in enumerate(paths)}
    return table.sort_values(
        "source", key=lambda column: column.map(order), kind="stable", ignore_index=True
    )


def _compare(
    correct: np.ndarray, labelled: np.ndarray, groups: np.ndarray, bootstrap: Bootstrap
) -> list[dict[str, float]]:
    """Return the metrics of every path; the first column of `correct` is the baseline."""
    if not len(labelled):
        nothing = dict.fromkeys(("accuracy", "baseline", "points", "low", "high"), np.nan)
        return [nothing] * (correct.shape[1] - 1)
    draws = bootstrap.means(correct[:, 1:] - correct[:, :1], labelled, groups)
    baseline, *shares = correct.sum(axis=0) / labelled.sum()
    metrics = []
    for share, draw in zip(shares, draws.T, strict=True):
        points = bootstrap.interval(100 * (share - baseline), 100 * draw)
        ends = {"points": points["value"], "low": points["low"], "high": points["high"]}
        metrics.append({"accuracy": share, "baseline": baseline, **ends})
    return metrics
