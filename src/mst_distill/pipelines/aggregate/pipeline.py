"""Pipeline `aggregate`: the comparisons of all benchmarks together."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.aggregate import nodes
from mst_distill.pipelines.by_name import node_of, pipeline_of


def create_pipeline() -> Pipeline:
    """The trials of all comparisons of one name -> differences, figure and page."""
    return pipeline_of(
        "aggregate",
        [
            node_of(nodes.aggregate_trials, "aggregate_trials"),
            node_of(nodes.compare_settings, "aggregate_gains"),
            node_of(nodes.draw_gains, "aggregate_figure"),
            node_of(nodes.summarise_settings, "aggregate_page"),
        ],
    )
