"""Nodes of `aggregate`: joint results of the comparisons on all benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.code_digest import code_of
from mst_distill.artifacts.provenance import Origin, depends_on, plain_parameters, texts_in
from mst_distill.datasets.comparisons import Comparisons
from mst_distill.errors import did_you_mean
from mst_distill.pipelines.compare.nodes import train_methods
from mst_distill.plan import Plan

PATH = re.compile(r"(?P<data>.+)/compare(?P<labels>[^/]*)/(?P<run>[^/]+)")
"""The folder of the trials of a comparison."""


@depends_on("run", "training", "route", "compare", "metric")
def aggregate_trials(comparisons: Comparisons, plan: Plan) -> pd.DataFrame:
    """Combine the trials of the comparisons with the run's name, on all benchmarks, in one table.

    Raises:
        ValueError: There is no comparison with this name, or one was made with methods or code
            other than the present ones; the message names it.
    """
    from mst_distill.compare.aggregation import gather
    from mst_distill.metric import metric_of

    paths = {key: PATH.fullmatch(key) for key in sorted(comparisons)}
    found = {key: path for key, path in paths.items() if path is not None}
    loaded = {
        path["data"] + path["labels"]: comparisons[key]()
        for key, path in found.items()
        if path["run"] == str(plan.run)
    }
    if not loaded:
        names = dict.fromkeys(path["run"] for path in found.values())
        raise ValueError(did_you_mean("run", str(plan.run), names))
    for benchmark, (_, origin) in loaded.items():
        if clauses := _differences(origin.parameters, origin.code, plan):
            raise ValueError(
                f"the comparison on {benchmark} is out of date: "
                f"{'; '.join(clauses)}. Run --pipeline=compare of that benchmark again"
            )
    tables = {name: table for name, (table, _) in loaded.items()}
    return gather(tables, plan.selection, metric_of(plan.metric))


def _differences(old: Mapping[str, Any], old_code: Mapping[str, str], plan: Plan) -> list[str]:
    """The differences between the parameters and code of a comparison and the present ones.

    The networks and the data differ from benchmark to benchmark, and so does their code: only the
    parameters and modules that all benchmarks share are compared.

    Args:
        old: The parameters of the comparison; ``compare``, ``training`` and the metric count.
        old_code: Module name to digest of its code, of the comparison.
        plan: The present parameters.
    """
    new = plain_parameters(
        {"compare": plan.compare, "training": plan.training, "evaluate": {"metric": plan.metric}}
    )
    common = ("methods", "weight", "budget", "tuning_seeds")
    new_code = code_of(train_methods, plan.metric, *texts_in(new["compare"]["methods"]))
    shared = old_code.keys() & new_code.keys()
    made, wanted = (
        Origin(
            "",
            {
                "compare": {key: blocks["compare"].get(key) for key in common},
                **({"training": blocks["training"]} if blocks.get("training") else {}),
                "evaluate": {"metric": blocks["evaluate"]["metric"]},
            },
            {},
            modules,
        )
        for blocks, modules in (
            (old, {name: old_code[name] for name in shared}),
            (new, {name: new_code[name] for name in shared}),
        )
    )
    return made.differences(wanted)


@depends_on("evaluate", "route", "compare")
def compare_settings(aggregate_trials: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Compare all methods with the baseline and the best control, by setting and over all."""
    from mst_distill.compare.aggregation import against_best_control, gain_table
    from mst_distill.compare.ranking import BEST_CONTROL
    from mst_distill.compare.teaching import controls_of
    from mst_distill.metric import metric_of

    confidence, metric, baseline = (
        plan.evaluate.confidence,
        metric_of(plan.metric),
        _baseline_of(plan),
    )
    tables = [gain_table(aggregate_trials, baseline, confidence, metric)]
    controls = controls_of(plan.compare)
    controlled = against_best_control(aggregate_trials, baseline, controls, plan.selection, metric)
    if controlled is not None:
        tables.append(gain_table(controlled, BEST_CONTROL, confidence, metric))
    return pd.concat(tables, ignore_index=True)


@depends_on("route", "compare", "metric")
def draw_gains(aggregate_gains: pd.DataFrame, plan: Plan) -> Figure:
    """The difference between every method and the baseline, in each setting and over all."""
    from mst_distill.compare.plots import gains_figure
    from mst_distill.metric import metric_of

    metric = metric_of(plan.metric)
    return gains_figure(aggregate_gains, plan.selection, _baseline_of(plan), metric)


@depends_on("route", "evaluate", "compare")
def summarise_settings(
    aggregate_trials: pd.DataFrame, aggregate_gains: pd.DataFrame, plan: Plan
) -> str:
    """The comparisons as a page of Markdown."""
    from mst_distill.compare.aggregation_page import aggregation_page
    from mst_distill.metric import metric_of

    settings = (_baseline_of(plan), plan.selection, plan.evaluate.confidence)
    return aggregation_page(aggregate_trials, aggregate_gains, *settings, metric_of(plan.metric))


def _baseline_of(plan: Plan) -> str:
    from mst_distill.compare.teaching import baseline_of

    baseline = baseline_of(plan.compare)
    if baseline is None:
        raise ValueError(
            "compare.methods has no baseline to compare the methods with: add "
            "baseline: {type: mst_distill.compare.methods.baseline.Baseline}"
        )
    return baseline
