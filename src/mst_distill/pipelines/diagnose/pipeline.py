"""Pipeline `diagnose`: what distillation did in a finished run."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.diagnose import nodes


def create_pipeline() -> Pipeline:
    """All that a run left -> paths, reliance, drift, headroom, routing -> report."""
    settings = [f"params:{block}" for block in ("target", "seed", "members", "route", "runtime")]
    finished = ["samples", "splits", "members", "masks", "students", "controls", *settings]
    return Pipeline(
        [
            node(
                nodes.train_paths,
                [*finished, "specialist_logits", "checkpoints"],
                "path_students",
                name="train_paths",
            ),
            node(
                nodes.predict_sources,
                [*finished, "router", "path_students", "params:evaluate"],
                ["source_predictions", "source_disagreement", "preferences"],
                name="predict_sources",
            ),
            node(
                nodes.compute_drift,
                [*finished, "params:diagnose"],
                ["drift", "similarity"],
                name="compute_drift",
            ),
            node(
                nodes.compute_reliance,
                ["samples", "splits", "members", "masks", *settings, "params:evaluate"],
                "reliance",
                name="compute_reliance",
            ),
            node(
                nodes.compare_paths,
                ["samples", "source_predictions", "params:seed", "params:evaluate"],
                "paths",
                name="compare_paths",
            ),
            node(
                nodes.summarise_diagnosis,
                [
                    "samples",
                    "source_predictions",
                    "source_disagreement",
                    "preferences",
                    "paths",
                    "drift",
                    "similarity",
                    "reliance",
                    "routing",
                    "params:target",
                    "params:seed",
                    "params:route",
                    "params:evaluate",
                ],
                "diagnosis",
                name="summarise_diagnosis",
            ),
            node(
                nodes.draw_paths,
                ["paths", "params:evaluate"],
                "paths_figure",
                name="draw_paths",
            ),
            node(nodes.draw_drift, [*finished, "drift"], "drift_figure", name="draw_drift"),
            node(
                nodes.draw_headroom,
                ["diagnosis", "params:evaluate"],
                "headroom_figure",
                name="draw_headroom",
            ),
        ]
    )
