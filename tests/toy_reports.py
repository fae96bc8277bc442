"""The results of finished runs on small samples, as the reports read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from mst_distill.data.samples import Samples
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.metrics import commonest_class, measure
from mst_distill.evaluate.predictions import EvaluatedModels, evaluate_models, fit_temperatures
from mst_distill.evaluate.verdict import comparison_report
from mst_distill.report.tables import RunResults
from toy_diagnoses import finished

BOOTSTRAP = Bootstrap(200, 0.95, 0)


@cache
def evaluated(
    kind: str = "two modalities", classes: tuple[str, ...] = ()
) -> tuple[Samples, RunResults]:
    """Train and evaluate a toy run; its classes get other names if some are given.

    Callers must not change the results.
    """
    toy = finished(kind)
    samples = toy.run.samples
    if classes:
        samples = replace(samples, classes=classes)
    models = EvaluatedModels(
        teachers=toy.teachers,
        ensemble=toy.ensemble,
        target=toy.run.target,
        students={"student": toy.student, "baseline": toy.initial_student},
    )
    models.place(toy.run)
    temperatures = fit_temperatures(toy.run, models.logits, toy.run.modalities, 8)
    found = evaluate_models(toy.run, models, 8, 15, 4.0, temperatures)
    metrics = {
        name: measure(counts, samples.classes, samples.dense)
        for name, counts in found.metric_counts.items()
    }
    pairs, bins = {"student": "baseline"}, None if samples.dense else 15
    report = comparison_report(found.predictions, metrics, pairs, BOOTSTRAP, bins, toy.run.target)
    commonest = commonest_class(found.metric_counts["student"], samples.classes)
    report = {**report, "commonest_class": commonest, "models": metrics}
    return samples, RunResults(
        toy.run.target, report, found.metric_counts, found.predictions, BOOTSTRAP
    )


def results_of(
    confusion: Sequence[Sequence[int]], confidence: float, **student: float
) -> RunResults:
    """Results with a given confusion matrix of student and baseline, one row for a true class.

    Args:
        confusion: ``(C, C)``.
        confidence: The student's confidence on every sample.
        student: Further metrics of the student.
    """
    counts = np.array(confusion)
    total, correct = int(counts.sum()), int(np.trace(counts))
    calibration = {"count": [total], "confidence": [confidence * total], "correct": [correct]}
    of_one = {"confusion": counts.tolist(), "nll": 0.5, "calibration": calibration}
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: len(counts)])
    outcomes = np.arange(total) < correct
    predictions = pd.DataFrame(
        {
            "id": [f"s{row}" for row in range(total)],
            "group": [f"s{row}" for row in range(total)],
            "correct": outcomes.astype(int),
            "labelled": 1,
        }
    )
    models = {"student": measure(of_one, names, False), "baseline": measure(of_one, names, False)}
    models["student"] |= student
    return RunResults(
        "image",
        {
            "verdict": "Distillation did nothing.",
            "models": models,
            "commonest_class": commonest_class(of_one, names),
        },
        dict.fromkeys(models, of_one),
        pd.concat([predictions.assign(model=name) for name in models], ignore_index=True),
        BOOTSTRAP,
    )
