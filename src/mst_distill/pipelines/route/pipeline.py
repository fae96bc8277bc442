"""Pipeline `route`: stage 3, dynamic distillation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.route.nodes import (
    compute_specialist_logits,
    cross_fit_teachers,
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
                    "params:teachers",
                    "params:masks",
                    "params:route",
                    "params:runtime",
                ],
                "specialist_logits",
                name="compute_specialist_logits",
            ),
            node(
                cross_fit_teachers,
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
                name="cross_fit_teachers",
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
                    "params:teachers",
                    "params:masks",
                    "params:route",
                    "params:runtime",
                ],
                ["student", "students", "router", "route_history", "routing"],
                name="train_student",
            ),
        ]
    )
