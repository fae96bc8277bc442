"""Pipeline `compare`: every method trains the student, and one report ranks the methods."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from mst_distill.pipelines.by_name import node_of, pipeline_of
from mst_distill.pipelines.compare import nodes

SHOWN = ("methods_figure", "student_sizes", "students_figure")
"""What the page shows in addition to the report."""


def create_pipeline() -> Pipeline:
    """Samples -> trials -> report."""
    results = ["methods_report", "methods_ranking", "methods_differences"]
    return pipeline_of(
        "compare",
        [
            node_of(nodes.train_methods, ["methods_settings", "trials"]),
            node_of(nodes.compare_methods, results),
            node_of(nodes.compute_student_costs, "student_costs"),
            node_of(nodes.compare_students, "student_sizes"),
            node_of(nodes.draw_students, "students_figure"),
            node_of(nodes.draw_differences, "methods_figure"),
            node_of(nodes.summarise_methods, "methods_page"),
            node_of(nodes.build_methods_web_page, "methods_web_page", *SHOWN),
        ],
    )
