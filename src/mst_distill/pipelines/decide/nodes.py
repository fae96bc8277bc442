"""Nodes of `decide`: the comparisons of all benchmarks, and what they decide."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.code_digest import code_of
from mst_distill.datasets.comparisons import Comparisons
from mst_distill.errors import unknown
from mst_distill.parameters import Compare, Decide, Evaluate, Route
from mst_distill.pipelines.compare.nodes import train_methods
from mst_distill.provenance import Origin, plain_parameters, texts_in

log = logging.getLogger(__name__)


def compare_cells(
    comparisons: Comparisons,
    run: str | int,
    route: Route,
    evaluate: Evaluate,
    compare: Compare,
    decide: Decide,
) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Hold all methods against the opponents: the decision, the trials, the differences, the pairs.

    Raises:
        ValueError: No benchmark has a comparison of the run's name, or one was made with other
            methods or other code than there are now; the message names it.
    """
    from mst_distill.evaluation.decision import decide_on, gain_table, gather, pair_table

    found = {tuple(key.split("/compare/", 1)): load for key, load in sorted(comparisons.items())}
    loaded = {benchmark: load() for (benchmark, name), load in found.items() if name == str(run)}
    if not loaded:
        raise ValueError(unknown("run", str(run), dict.fromkeys(name for _, name in found)))
    for benchmark, (_, origin) in loaded.items():
        if clauses := _terms(origin.parameters["compare"], origin.code, compare):
            raise ValueError(
                f"the comparison on {benchmark} is not what would be made now: "
                f"{'; '.join(clauses)}. Run --pipeline=compare of that benchmark again"
            )
    trials = gather({name: table for name, (table, _) in loaded.items()}, route.selection)
    contrasts = decide.of(compare)
    gains = gain_table(trials, contrasts.opponents, evaluate.confidence)
    decision = decide_on(gains, contrasts, route.selection, evaluate.confidence)
    pairs = pair_table(trials, contrasts.pairs, evaluate.confidence)
    for sentence in decision["sentences"]:
        log.info("%s", sentence)
    return decision, trials, gains, pairs


def _terms(was: Mapping[str, Any], code: Mapping[str, str], compare: Compare) -> list[str]:
    """In what the terms of all benchmarks' trials differ from those of now.

    Nets and data are a benchmark's own, and so is the code of these.
    """
    now = plain_parameters({"compare": compare})["compare"]
    common = ("list", compare.list, "weight", "budget")
    of_now = code_of(train_methods, *texts_in(now[compare.list]))
    shared = code.keys() & of_now.keys()
    made, wanted = (
        Origin("", {"compare": {key: block.get(key) for key in common}}, {}, modules)
        for block, modules in (
            (was, {name: code[name] for name in shared}),
            (now, {name: of_now[name] for name in shared}),
        )
    )
    return made.differences(wanted)


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
