"""Pipeline `compare`: every method trains the student, and one report ranks the methods."""

from mst_distill.pipelines.compare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
