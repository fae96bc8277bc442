"""Pipeline `predict`: the student of a finished run on new data of its modality."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.predict import nodes


def create_pipeline() -> Pipeline:
    """Student and new data -> labels and probabilities."""
    return pipeline_of("predict", [node_of(nodes.predict_new_samples, "predicted")])
