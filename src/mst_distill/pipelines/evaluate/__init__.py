"""Pipeline `evaluate`."""

from mst_distill.pipelines.evaluate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
