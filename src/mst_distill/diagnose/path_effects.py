"""What each path did for the student, by class: the paper's figure 1, top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mst_distill.diagnose.prediction_matrix import Outcomes
from mst_distill.evaluate.bootstrap import Bootstrap

ALL = "(all)"
"""What stands for all classes together."""


def path_title(source: str) -> str:
    """How the student is called that was distilled from one source alone."""
    return f"student of {source}"


def path_table(
    outcomes: Outcomes,
    control: str,
    classes: Sequence[str],
    bootstrap: Bootstrap,
) -> pd.DataFrame:
    """Hold the student of every source against the control.

    Args:
        outcomes: Of them, see `path_title`, and the control.
        control: The control's name.
        classes: Class names in order; none where labels are dense.
        bootstrap: Of the intervals; for a class it draws from the class.

    Returns:
        A row a source and class, that for all of them first: ``source``, ``class``, ``samples``,
        ``accuracy`` and ``control`` (shares in [0, 1]), and their difference in ``points`` with
        ``low`` and ``high``. Where there is no interval its ends are not a number, and of a class
        without a held-out sample all figures are.
    """
    start = path_title("")
    paths = [model.removeprefix(start) for model in outcomes.models if model.startswith(start)]
    both = outcomes.take([control, *map(path_title, paths)])
    rows: dict[str, np.ndarray] = {ALL: np.arange(len(both.ids))}
    rows |= {
        name: np.flatnonzero((both.labels == label) & (both.judged > 0))
        for label, name in enumerate(classes)
    }
    parts = []
    for name, here in rows.items():
        figures = _compare(both.correct[here], both.judged[here], bootstrap)
        parts += [
            {"source": source, "class": name, "samples": len(here), **of}
            for source, of in zip(paths, figures, strict=True)
        ]
    table = pd.DataFrame(parts)
    order = {source: place for place, source in enumerate(paths)}
    return table.sort_values(
        "source", key=lambda of: of.map(order), kind="stable", ignore_index=True
    )


def _compare(
    correct: np.ndarray, judged: np.ndarray, bootstrap: Bootstrap
) -> list[dict[str, float]]:
    """Figures of every path on some samples; `correct` has the control in its first column."""
    if not len(judged):
        nothing = dict.fromkeys(("accuracy", "control", "points", "low", "high"), np.nan)
        return [nothing] * (correct.shape[1] - 1)
    draws = bootstrap.means(correct[:, 1:] - correct[:, :1], judged)
    control, *shares = correct.sum(axis=0) / judged.sum()
    figures = []
    for share, draw in zip(shares, draws.T, strict=True):
        points = bootstrap.interval(100 * (share - control), 100 * draw)
        ends = {"points": points["value"], "low": points["low"], "high": points["high"]}
        figures.append({"accuracy": share, "control": control, **ends})
    return figures
