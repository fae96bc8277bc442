"""Pipeline `check`: a run in seconds that shows whether data and networks fit together."""

from mst_distill.pipelines.check.pipeline import create_pipeline

__all__ = ["create_pipeline"]
