"""Pipeline `compare`: every method teaches the student, and one report says who wins."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.compare import nodes


def create_pipeline() -> Pipeline:
    """Samples -> trials -> report."""
    return Pipeline(
        [
            node(
                nodes.train_methods,
                [
                    "samples",
                    "trial_log",
                    "params:protocol",
                    "params:seed",
                    "params:members",
                    "params:teachers",
                    "params:masks",
                    "params:route",
                    "params:compare",
                    "params:evaluate",
                    "params:runtime",
                ],
                "trials",
                name="train_methods",
            ),
            node(
                nodes.compare_methods,
                ["trials", "params:route", "params:compare", "params:evaluate"],
                ["methods_report", "methods_ranking", "methods_differences"],
                name="compare_methods",
            ),
            node(
                nodes.draw_differences,
                "methods_differences",
                "methods_figure",
                name="draw_differences",
            ),
            node(
                nodes.summarise_methods,
                ["methods_report", "methods_ranking", "methods_differences"],
                "methods_page",
                name="summarise_methods",
            ),
        ]
    )
