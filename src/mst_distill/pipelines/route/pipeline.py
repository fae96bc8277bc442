"""Pipeline `route`: stage 3, dynamic distillation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.route.nodes import (
    compute_specialist_logits,
    train_student,
)


def create_pipeline() -> Pipeline:
    """Members and masks -> the specialists' logits -> student."""
    return Pipeline(
        [
            node(
                compute_specialist_logits,
                [
                    "samples",
                    "splits",
                    "members",
                    "masks",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:route",
                    "params:runtime",
                ],
                "specialist_logits",
                name="compute_specialist_logits",
            ),
            node(
                train_student,
                [
                    "samples",
                    "splits",
                    "members",
                    "masks",
                    "specialist_logits",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:route",
                    "params:runtime",
                ],
                ["student", "students", "router", "route_history", "routing"],
                name="train_student",
            ),
        ]
    )
