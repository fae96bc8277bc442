"""Pipeline `ingest`: raw files to samples and their splits."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.ingest.nodes import (
    assign_splits,
    build_samples,
    draw_samples,
    summarise_samples,
)


def create_pipeline() -> Pipeline:
    """Raw files -> samples -> splits."""
    return Pipeline(
        [
            node(
                build_samples,
                ["params:benchmark", "params:protocol", "params:limit", "params:seed"],
                "samples",
                name="build_samples",
            ),
            node(
                assign_splits,
                ["samples", "params:protocol", "params:seed"],
                "splits",
                name="assign_splits",
            ),
            node(
                summarise_samples,
                ["samples", "splits"],
                ["samples_summary", "samples_report"],
                name="summarise_samples",
            ),
            node(draw_samples, "samples", "samples_gallery", name="draw_samples"),
        ]
    )
