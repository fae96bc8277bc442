"""Pipeline `export`: the student of a finished run, for use without this package."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.export.nodes import export_student


def create_pipeline() -> Pipeline:
    """The student, its input and the samples -> a folder of ONNX, pt2, weights, card and code."""
    return pipeline_of("export", [node_of(export_student, "exported")])
