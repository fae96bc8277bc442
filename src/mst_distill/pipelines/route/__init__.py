"""Pipeline `route`."""

from mst_distill.pipelines.route.pipeline import create_pipeline

__all__ = ["create_pipeline"]
