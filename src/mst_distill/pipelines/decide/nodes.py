"""Nodes of `decide`: the comparisons of all benchmarks, and what they decide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.parameters import Decide, Evaluate, Route, unknown

log = logging.getLogger(__name__)


def compare_cells(
    comparisons: Mapping[str, Callable[[], pd.DataFrame]],
    run: str | int,
    route: Route,
    evaluate: Evaluate,
    decide: Decide,
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """Hold all methods against the opponents: the decision, the trials, the differences.

    Raises:
        ValueError: No benchmark has a comparison of the run's name.
    """
    from mst_distill.evaluation.decision import decide_on, gain_table, gather

    found = {tuple(key.split("/compare/", 1)): load for key, load in sorted(comparisons.items())}
    tables = {benchmark: load() for (benchmark, name), load in found.items() if name == str(run)}
    if not tables:
        raise ValueError(unknown("run", str(run), dict.fromkeys(name for _, name in found)))
    trials = gather(tables, route.selection)
    gains = gain_table(trials, decide.opponents, evaluate.confidence)
    decision = decide_on(gains, decide, route.selection, evaluate.confidence)
    for sentence in decision["sentences"]:
        log.info("%s", sentence)
    return decision, trials, gains


def draw_gains(decision: dict[str, Any], gains: pd.DataFrame) -> Figure:
    """How far every method is from the floor, in each cell and over all."""
    from mst_distill.evaluation.figures import gains_figure

    return gains_figure(gains, decision["selection"], decision["floor"])


def summarise_decision(decision: dict[str, Any], trials: pd.DataFrame, gains: pd.DataFrame) -> str:
    """The decision as a page of Markdown."""
    from mst_distill.evaluation.decision_page import decision_page

    return decision_page(decision, trials, gains)
