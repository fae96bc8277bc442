"""The report of a run as one file of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mst_distill.data.samples import Samples
from mst_distill.report.limits import limits
from mst_distill.report.rendering import render_html
from mst_distill.report.tables import (
    STUDENT,
    RunResults,
    class_table,
    models_table,
    origin_table,
    student_table,
    value_tables,
)
from mst_distill.report.worst_samples import worst_samples

FIGURES = {
    "learning_curves": "Validation metrics by epoch, one column for each stage.",
    "confusion_matrix": "Confusion: a row for each true class, in percent of its test samples.",
    "reliability_diagram": "Reliability: accuracy against confidence. On the diagonal a model is "
    "calibrated, above it underconfident. The size of a point is the share of the samples.",
    "risk_coverage_figure": "Coverage: the accuracy on the most confident samples, by their share "
    "of all samples.",
    "routing_shares": "Routing: the share of the training samples that each specialist was "
    "selected for.",
}
"""Catalog entry to its caption, in the order of the page; entries that were not made are left
out."""

DIAGNOSIS_FIGURES = {
    "paths_figure": "Paths: students distilled from one fixed source alone, against the baseline.",
    "headroom_figure": "Headroom: the best source, the mixture, the router, and a perfect choice.",
    "drift_figure": "Drift: saliency maps of the student and of the multimodal teacher.",
}
"""As `FIGURES`, of the pipeline `diagnose`."""


@dataclass(frozen=True)
class RunOrigin:
    """Where the results of a run come from.

    Attributes:
        benchmark: Import path of the source of the samples.
        parameters: All parameters that count; JSON values.
        student: Class of the student, number of its weights and SHA-256 of their file.
        training: How all nets were trained, in words.
    """

    benchmark: str
    parameters: Mapping[str, Any]
    student: tuple[str, int, str]
    training: str


def run_page(
    samples: Samples,
    results: RunResults,
    origin: RunOrigin,
    figures: Mapping[str, bytes],
    diagnosis: Sequence[str] | None = None,
) -> str:
    """Write the report of a run.

    Args:
        samples: The store.
        results: The results on the test split.
        origin: Where they come from.
        figures: Catalog entry to PNG; of `FIGURES` and `DIAGNOSIS_FIGURES` those that were made.
        diagnosis: The sentences of the diagnosis; None if the run was not diagnosed.
    """
    evaluated = results.predictions[results.predictions["model"] == STUDENT]
    in_test = samples.index["id"].isin(evaluated["id"])
    groups = int(samples.index["group"][in_test].nunique())
    parameters, (kind, weights, sha256) = origin.parameters, origin.student
    name = origin.benchmark.rpartition(".")[2]
    heading = results.metric.title + " in percent" * results.metric.percent
    return render_html(
        "run.html",
        title=f"{name}: the {results.target} student",
        subtitle=f"run {parameters['run']}, seed {parameters['seed']}, {len(evaluated):,} test "
        f"samples of {groups:,} groups, {len(results.classes)} classes",
        target=results.target,
        verdict=results.metrics["verdict"],
        student_table=student_table(results),
        class_table=class_table(results, "pixels" if samples.dense else "samples"),
        models_table=models_table(results),
        metric=f"{heading[0].upper()}{heading[1:]}",
        value_tables=value_tables(results),
        limits=limits(results, groups, parameters["protocol"], parameters["limit"]),
        figures=_captioned(FIGURES, figures),
        worst=worst_samples(samples, results.predictions, results.target),
        diagnosis=diagnosis,
        diagnosis_figures=_captioned(DIAGNOSIS_FIGURES, figures),
        parameters=yaml.safe_dump(dict(parameters), sort_keys=False, allow_unicode=True),
        origin=origin_table(
            {
                "benchmark": origin.benchmark,
                "samples": f"{len(samples):,}, digest {samples.digest}",
                "student": f"{kind}, {weights:,} weights, SHA-256 {sha256}",
                "training": origin.training,
            }
        ),
    )


def _captioned(captions: Mapping[str, str], figures: Mapping[str, bytes]) -> dict[str, bytes]:
    return {text: figures[name] for name, text in captions.items() if name in figures}
