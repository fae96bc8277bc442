"""Pipeline `aggregate`: the comparisons of all benchmarks together."""

from mst_distill.pipelines.aggregate.pipeline import create_pipeline

__all__ = ["create_pipeline"]
