"""Pipeline `ingest`: raw files to samples and their splits."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.ingest import nodes


def create_pipeline() -> Pipeline:
    """Raw files -> samples -> splits."""
    return pipeline_of(
        "ingest",
        [
            node_of(nodes.build_samples, "samples"),
            node_of(nodes.assign_splits, "splits"),
            node_of(nodes.summarise_samples, ["samples_summary", "samples_report"]),
            node_of(nodes.draw_samples, "samples_gallery"),
        ],
    )
