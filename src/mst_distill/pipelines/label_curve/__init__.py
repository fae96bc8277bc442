"""Pipeline `label_curve`."""

from mst_distill.pipelines.label_curve.pipeline import create_pipeline

__all__ = ["create_pipeline"]
