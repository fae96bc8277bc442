"""Pipeline `teachers`: stage 1, collaborative initialisation."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.teachers.nodes import train_members


def create_pipeline() -> Pipeline:
    """Samples -> members."""
    return pipeline_of("teachers", [node_of(train_members, ["members", "teachers_history"])])
