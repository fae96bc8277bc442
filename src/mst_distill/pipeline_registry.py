"""The project's pipelines."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines import (
    aggregate,
    check,
    compare,
    diagnose,
    evaluate,
    export,
    ingest,
    label_curve,
    masks,
    predict,
    route,
    teachers,
)


def register_pipelines() -> dict[str, Pipeline]:
    """Register each stage as a pipeline, and ``distill``, the default, as all stages in order.

    ``check`` reads a few samples, computes one epoch of each stage on them, and writes nothing.
    ``diagnose`` analyses a finished run of ``distill`` and does not train its networks again.
    ``predict`` uses its student on new data, and ``export`` writes it to a folder, for use without
    this package.
    ``compare`` and ``label_curve`` include ``ingest`` and need no other stage. ``aggregate`` reads
    the comparisons of all benchmarks.
    """
    stages = {
        "ingest": ingest.create_pipeline(),
        "teachers": teachers.create_pipeline(),
        "masks": masks.create_pipeline(),
        "route": route.create_pipeline(),
        "evaluate": evaluate.create_pipeline(),
    }
    distill = sum(stages.values(), start=Pipeline([]))
    return {
        **stages,
        "distill": distill,
        "__default__": distill,
        "check": check.create_pipeline(),
        "diagnose": diagnose.create_pipeline(),
        "predict": predict.create_pipeline(),
        "export": export.create_pipeline(),
        "compare": stages["ingest"] + compare.create_pipeline(),
        "label_curve": stages["ingest"] + label_curve.create_pipeline(),
        "aggregate": aggregate.create_pipeline(),
    }
