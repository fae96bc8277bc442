"""Pipeline `compare`: every method teaches the student, and one report says who wins."""

from mst_distill.pipelines.compare.pipeline import create_pipeline

__all__ = ["create_pipeline"]
