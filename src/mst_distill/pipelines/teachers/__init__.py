"""Pipeline `teachers`."""

from mst_distill.pipelines.teachers.pipeline import create_pipeline

__all__ = ["create_pipeline"]
