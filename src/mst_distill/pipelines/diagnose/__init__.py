"""Pipeline `diagnose`."""

from mst_distill.pipelines.diagnose.pipeline import create_pipeline

__all__ = ["create_pipeline"]
