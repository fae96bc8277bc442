"""Pipeline `masks`: stage 2, specialised teacher adaptation."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.masks.nodes import train_masks


def create_pipeline() -> Pipeline:
    """Members -> masks."""
    return Pipeline(
        [
            node(
                train_masks,
                [
                    "samples",
                    "splits",
                    "members",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:masks",
                    "params:runtime",
                ],
                ["masks", "masks_history"],
                name="train_masks",
            )
        ]
    )
