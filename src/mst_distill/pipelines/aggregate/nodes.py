"""Nodes of `aggregate`: the comparisons of all benchmarks together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import Origin, plain_parameters, texts_in
from mst_distill.datasets.comparisons import Comparisons
from mst_distill.errors import unknown
from mst_distill.parameters import Compare, Evaluate, Route
from mst_distill.pipelines.compare.nodes import train_methods


def aggregate_trials(
    comparisons: Comparisons, run: str | int, route: Route, compare: Compare
) -> pd.DataFrame:
    """Put the trials of all benchmarks' comparisons of one name into one table.

    Raises:
        ValueError: No benchmark has a comparison of the run's name, or one was made with other
            methods or other code than there are now; the message names it.
    """
    from mst_distill.compare.aggregation import gather

    found = {tuple(key.split("/compare/", 1)): load for key, load in sorted(comparisons.items())}
    loaded = {benchmark: load() for (benchmark, name), load in found.items() if name == str(run)}
    if not loaded:
        raise ValueError(unknown("run", str(run), dict.fromkeys(name for _, name in found)))
    for benchmark, (_, origin) in loaded.items():
        if clauses := _differences(origin.parameters["compare"], origin.code, compare):
            raise ValueError(
                f"the comparison on {benchmark} is not what would be made now: "
                f"{'; '.join(clauses)}. Run --pipeline=compare of that benchmark again"
            )
    return gather({name: table for name, (table, _) in loaded.items()}, route.selection)


def _differences(was: Mapping[str, Any], code: Mapping[str, str], compare: Compare) -> list[str]:
    """How the terms of all benchmarks' trials differ from those of now.

    Nets and data are a benchmark's own, and so is the code of these.
    """
    now = plain_parameters({"compare": compare})["compare"]
    common = ("methods", "weight", "budget")
    of_now = code_of(train_methods, *texts_in(now["methods"]))
    shared = code.keys() & of_now.keys()
    made, wanted = (
        Origin("", {"compare": {key: block.get(key) for key in common}}, {}, modules)
        for block, modules in (
            (was, {name: code[name] for name in shared}),
            (now, {name: of_now[name] for name in shared}),
        )
    )
    return made.differences(wanted)


def compare_settings(trials: pd.DataFrame, evaluate: Evaluate, compare: Compare) -> pd.DataFrame:
    """Compare all methods with the student alone, in each setting and over all of them."""
    from mst_distill.compare.aggregation import gain_table

    return gain_table(trials, _baseline_of(compare), evaluate.confidence)


def draw_gains(gains: pd.DataFrame, route: Route, compare: Compare) -> Figure:
    """How far every method is from the student alone, in each setting and over all."""
    from mst_distill.compare.plots import gains_figure

    return gains_figure(gains, route.selection, _baseline_of(compare))


def summarise_settings(
    trials: pd.DataFrame, gains: pd.DataFrame, route: Route, evaluate: Evaluate, compare: Compare
) -> str:
    """The comparisons as a page of Markdown."""
    from mst_distill.compare.aggregation_page import aggregation_page

    baseline = _baseline_of(compare)
    return aggregation_page(trials, gains, baseline, route.selection, evaluate.confidence)


def _baseline_of(compare: Compare) -> str:
    from mst_distill.compare.teaching import baseline_of

    baseline = baseline_of(compare)
    if baseline is None:
        raise ValueError(
            "compare.methods lacks the student alone, which all methods are compared with: add "
            "none: {type: mst_distill.compare.methods.alone.Alone}"
        )
    return baseline
