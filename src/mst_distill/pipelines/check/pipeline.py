"""Pipeline `check`: a few samples, all networks, and one step of each stage; nothing is written."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.check import nodes


def create_pipeline() -> Pipeline:
    """Raw files -> a table in the log."""
    return pipeline_of("check", [node_of(nodes.compute_first_steps, None)])
