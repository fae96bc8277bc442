"""Pipeline `teachers`: stage 1, collaborative initialisation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.teachers.nodes import train_members


def create_pipeline() -> Pipeline:
    """Samples -> members."""
    return Pipeline(
        [
            node(
                train_members,
                [
                    "samples",
                    "splits",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:teachers",
                    "params:masks",
                    "params:runtime",
                ],
                ["members", "teachers_history"],
                name="train_members",
            )
        ]
    )
