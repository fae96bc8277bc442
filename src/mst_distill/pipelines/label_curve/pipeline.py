"""Pipeline `label_curve`: what each method makes of fewer labels."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.label_curve import nodes


def create_pipeline() -> Pipeline:
    """Samples -> trials for each share of labels -> curve and page."""
    return pipeline_of(
        "label_curve",
        [
            node_of(nodes.train_shares, "label_curve_trials"),
            node_of(nodes.compare_shares, "label_curve"),
            node_of(nodes.draw_label_curve, "label_curve_figure"),
            node_of(nodes.build_label_curve_web_page, "label_curve_web_page"),
        ],
    )
