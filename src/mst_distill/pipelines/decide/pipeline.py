"""Pipeline `decide`: which recipe may become the default, over all benchmarks."""

from __future__ import annotations

from kedro.pipeline import Pipeline, node

from mst_distill.pipelines.decide import nodes


def create_pipeline() -> Pipeline:
    """The trials of all comparisons of one name -> decision."""
    return Pipeline(
        [
            node(
                nodes.compare_cells,
                [
                    "comparisons",
                    *(
                        f"params:{name}"
                        for name in ("run", "route", "evaluate", "compare", "decide")
                    ),
                ],
                ["decision", "decision_trials", "decision_gains", "decision_pairs"],
                name="compare_cells",
            ),
            node(
                nodes.draw_gains,
                ["decision", "decision_gains"],
                "decision_figure",
                name="draw_gains",
            ),
            node(
                nodes.summarise_decision,
                ["decision", "decision_trials", "decision_gains", "decision_pairs"],
                "decision_page",
                name="summarise_decision",
            ),
        ]
    )
