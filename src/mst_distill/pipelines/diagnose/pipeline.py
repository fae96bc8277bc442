"""Pipeline `diagnose`: what distillation did in a finished run."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.diagnose import nodes
from mst_distill.pipelines.evaluate.pipeline import FIGURES

NETS = ("members", "masks", "students", "baselines")
TABLES = ("paths", "drift", "similarity", "reliance", "routing")
SHOWN = (*FIGURES, "student", "diagnosis", "paths_figure", "drift_figure", "headroom_figure")


def create_pipeline() -> Pipeline:
    """The results of a run -> paths, reliance, drift, headroom, routing -> report."""
    predictions = ["source_predictions", "source_disagreement", "routing_probabilities"]
    return pipeline_of(
        "diagnose",
        [
            node_of(nodes.train_paths, "path_students", *NETS),
            node_of(nodes.predict_sources, predictions, *NETS),
            node_of(nodes.compute_drift, ["drift", "similarity"], *NETS),
            node_of(nodes.compute_reliance, "reliance"),
            node_of(nodes.compare_paths, "paths"),
            node_of(nodes.summarise_diagnosis, "diagnosis", *TABLES),
            node_of(nodes.draw_paths, "paths_figure"),
            node_of(nodes.draw_drift, "drift_figure", *NETS),
            node_of(nodes.draw_headroom, "headroom_figure"),
            node_of(nodes.build_diagnosed_report, "diagnosed_report", *SHOWN),
        ],
    )
