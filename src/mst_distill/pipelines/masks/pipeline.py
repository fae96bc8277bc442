"""Pipeline `masks`: stage 2, specialised teacher adaptation."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.masks.nodes import train_masks


def create_pipeline() -> Pipeline:
    """Members -> masks."""
    return pipeline_of("masks", [node_of(train_masks, ["masks", "masks_history"])])
