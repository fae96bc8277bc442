"""Pipeline `evaluate`: the control, the held-out split, the report."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.evaluate import nodes


def create_pipeline() -> Pipeline:
    """All models -> predictions -> report."""
    return Pipeline(
        [
            node(
                nodes.train_control,
                [
                    "samples",
                    "splits",
                    "checkpoints",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:teachers",
                    "params:masks",
                    "params:route",
                    "params:runtime",
                ],
                ["controls", "control_history"],
                name="train_control",
            ),
            node(
                nodes.predict_held_out,
                [
                    "samples",
                    "splits",
                    "members",
                    "masks",
                    "students",
                    "controls",
                    "params:target",
                    "params:seed",
                    "params:members",
                    "params:route",
                    "params:evaluate",
                    "params:runtime",
                ],
                ["predictions", "tallies", "disagreement"],
                name="predict_held_out",
            ),
            node(
                nodes.compare_models,
                [
                    "samples",
                    "predictions",
                    "tallies",
                    "disagreement",
                    "params:target",
                    "params:seed",
                    "params:route",
                    "params:evaluate",
                ],
                ["metrics", "comparison"],
                name="compare_models",
            ),
            node(
                nodes.draw_confusion,
                ["tallies", "samples"],
                "confusion_matrix",
                name="draw_confusion",
            ),
            node(
                nodes.draw_reliability,
                "tallies",
                "reliability_diagram",
                name="draw_reliability",
            ),
            node(
                nodes.draw_learning_curves,
                ["teachers_history", "masks_history", "route_history", "control_history"],
                "learning_curves",
                name="draw_learning_curves",
            ),
            node(nodes.draw_routing, "routing", "routing_shares", name="draw_routing"),
        ]
    )
