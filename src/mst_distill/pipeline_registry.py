"""The project's pipelines."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines import evaluate, ingest, masks, route, teachers


def register_pipelines() -> dict[str, Pipeline]:
    """Every stage by itself; ``distill``, which is also the default, is all five in this order."""
    stages = {
        "ingest": ingest.create_pipeline(),
        "teachers": teachers.create_pipeline(),
        "masks": masks.create_pipeline(),
        "route": route.create_pipeline(),
        "evaluate": evaluate.create_pipeline(),
    }
    distill = sum(stages.values(), start=Pipeline([]))
    return {**stages, "distill": distill, "__default__": distill}
