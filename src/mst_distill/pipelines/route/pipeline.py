"""Pipeline `route`: stage 3, dynamic distillation."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.route.nodes import compute_specialist_logits, train_student


def create_pipeline() -> Pipeline:
    """Members and masks -> the specialists' logits -> student."""
    outputs = ["student", "students", "router", "route_history", "routing"]
    return pipeline_of(
        "route",
        [
            node_of(compute_specialist_logits, "specialist_logits"),
            node_of(train_student, outputs, "members", "masks"),
        ],
    )
