"""Pipeline `route`: stage 3, dynamic distillation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.route.nodes import (
    compute_out_of_fold_logits,
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
                compute_out_of_fold_logits,
                [
                    "samples",
                    "splits",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:teachers",
                    "params:masks",
                    "params:route",
                    "params:runtime",
                ],
                "out_of_fold_logits",
                name="compute_out_of_fold_logits",
            ),
            node(
                train_student,
                [
                    "samples",
                    "splits",
                    "members",
                    "masks",
                    "specialist_logits",
                    "out_of_fold_logits",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:masks",
                    "params:route",
                    "params:runtime",
                ],
                ["student", "students", "router", "route_history", "routing"],
                name="train_student",
            ),
        ]
    )
