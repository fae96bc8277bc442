"""Pipeline `evaluate`: the baseline, the evaluation on the test split, and the report."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.evaluate import nodes

FIGURES = (
    "learning_curves",
    "confusion_matrix",
    "reliability_diagram",
    "risk_coverage_figure",
    "routing_shares",
)


def create_pipeline() -> Pipeline:
    """All models -> predictions -> report."""
    predictions = ["predictions", "metric_counts", "disagreement"]
    nets = ["members", "masks", "students", "baselines"]
    return pipeline_of(
        "evaluate",
        [
            node_of(nodes.train_baseline, ["baselines", "baseline_history"]),
            node_of(nodes.compute_temperatures, ["temperatures", "validation_predictions"], *nets),
            node_of(nodes.build_student_input, "student_input"),
            node_of(nodes.predict_held_out, predictions, *nets),
            node_of(nodes.train_linear_model, "linear_model_counts"),
            node_of(
                nodes.compare_models,
                ["metrics", "comparison"],
                "linear_model_counts",
                "disagreement",
            ),
            node_of(nodes.draw_confusion, "confusion_matrix"),
            node_of(nodes.draw_reliability, "reliability_diagram"),
            node_of(nodes.compute_risk_coverage, "risk_coverage"),
            node_of(nodes.draw_risk_coverage, "risk_coverage_figure"),
            node_of(nodes.draw_learning_curves, "learning_curves"),
            node_of(nodes.draw_routing, "routing_shares"),
            node_of(nodes.build_report, "report", "student", *FIGURES),
            node_of(nodes.build_model_card, "model_card", "student", "student_input"),
        ],
    )
