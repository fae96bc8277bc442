"""Pipeline `decide`: which recipe may become the default, over all benchmarks."""

from mst_distill.pipelines.decide.pipeline import create_pipeline

__all__ = ["create_pipeline"]
