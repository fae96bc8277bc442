"""Pipeline `aggregate`: the comparisons of all benchmarks together."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.aggregate import nodes


def create_pipeline() -> Pipeline:
    """The trials of all comparisons of one name -> differences, figure and page."""
    return Pipeline(
        [
            node(
                nodes.aggregate_trials,
                ["comparisons", "params:run", "params:route", "params:compare"],
                "aggregate_trials",
                name="aggregate_trials",
            ),
            node(
                nodes.compare_settings,
                ["aggregate_trials", "params:evaluate", "params:compare"],
                "aggregate_gains",
                name="compare_settings",
            ),
            node(
                nodes.draw_gains,
                ["aggregate_gains", "params:route", "params:compare"],
                "aggregate_figure",
                name="draw_gains",
            ),
            node(
                nodes.summarise_settings,
                [
                    "aggregate_trials",
                    "aggregate_gains",
                    "params:route",
                    "params:evaluate",
                    "params:compare",
                ],
                "aggregate_page",
                name="summarise_settings",
            ),
        ]
    )
