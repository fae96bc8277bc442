"""Nodes of `decide`: the comparisons of all benchmarks, and what they decide."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.parameters import Compare, Decide, Evaluate, Route, unknown

log = logging.getLogger(__name__)


def compare_cells(
    comparisons: Mapping[str, Callable[[], pd.DataFrame]],
    run: str | int,
    route: Route,
    evaluate: Evaluate,
    compare: Compare,
    decide: Decide,
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Hold all methods against the opponents: the decision, the trials, the differences, the pairs.

    Raises:
        ValueError: No benchmark has a comparison of the run's name.
    """
    from mst_distill.evaluation.decision import decide_on, gain_table, gather, pair_table

    found = {tuple(key.split("/compare/", 1)): load for key, load in sorted(comparisons.items())}
    tables = {benchmark: load() for (benchmark, name), load in found.items() if name == str(run)}
    if not tables:
        raise ValueError(unknown("run", str(run), dict.fromkeys(name for _, name in found)))
    trials = gather(tables, route.selection)
    contrasts = decide.of(compare)
    gains = gain_table(trials, contrasts.opponents, evaluate.confidence)
    decision = decide_on(gains, contrasts, route.selection, evaluate.confidence)
    pairs = pair_table(trials, contrasts.pairs, evaluate.confidence)
    for sentence in decision["sentences"]:
        log.info("%s", sentence)
    return decision, trials, gains, pairs


def draw_gains(decision: dict[str, Any], gains: pd.DataFrame) -> Figure:
    """How far every method is from the floor, in each cell and over all."""
    from mst_distill.evaluation.figures import gains_figure

    return gains_figure(gains, decision["selection"], decision["floor"])


def summarise_decision(
    decision: dict[str, Any], trials: pd.DataFrame, gains: pd.DataFrame, pairs: pd.DataFrame
) -> str:
    """The decision as a page of Markdown."""
    from mst_distill.evaluation.decision_page import decision_page

    return decision_page(decision, trials, gains, pairs)
