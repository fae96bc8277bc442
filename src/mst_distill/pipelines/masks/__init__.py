"""Pipeline `masks`."""

from mst_distill.pipelines.masks.pipeline import create_pipeline

__all__ = ["create_pipeline"]
