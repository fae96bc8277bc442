"""Pipeline `export`."""

from mst_distill.pipelines.export.pipeline import create_pipeline

__all__ = ["create_pipeline"]
