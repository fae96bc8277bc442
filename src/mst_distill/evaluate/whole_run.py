"""The evaluation of a whole run: its models, their temperatures, and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

import pandas as pd

from mst_distill.data.samples import Samples
from mst_distill.data.summary import evaluated_samples, labels_used
from mst_distill.evaluate.bootstrap import Bootstrap
from mst_distill.evaluate.by_value import metrics_by_value
from mst_distill.evaluate.json_values import json_values
from mst_distill.evaluate.metrics import commonest_class, measure
from mst_distill.evaluate.predictions import EvaluatedModels, HeldOutResults, fit_temperatures
from mst_distill.evaluate.verdict import comparison_report, comparison_table
from mst_distill.metric import metric_of
from mst_distill.mst.finished_run import FinishedRun
from mst_distill.mst.given_teachers import labels_seen
from mst_distill.plan import Plan
from mst_distill.training.run import Run
from mst_distill.training.selection import criteria

T = TypeVar("T")

LINEAR = "linear model"

log = logging.getLogger(__name__)


def models_of(finished: FinishedRun, target: str, selection: str) -> EvaluatedModels:
    """The models that a run is evaluated with.

    Args:
        finished: The run.
        target: The student's modality.
        selection: The run's own criterion, whose student and baseline have no criterion in their
            names.
    """
    return EvaluatedModels(
        teachers=finished.teachers,
        ensemble=finished.ensemble,
        target=target,
        students={
            "student after stage 1": finished.members[target],
            **_by_selection("student", finished.students, selection),
            **_by_selection("baseline", finished.baselines, selection),
        },
    )


def temperatures_of(run: Run, models: EvaluatedModels, batch_size: int) -> dict[str, float]:
    """Fit a temperature for every model on the validation split, see `fit_temperatures`."""
    models.place(run)
    if not run.samples.present:
        return fit_temperatures(run, models.logits, run.inputs, batch_size)
    # The students see more samples than those with all modalities.
    of_teachers = fit_temperatures(run, models.teacher_logits, run.inputs, batch_size)
    return of_teachers | fit_temperatures(run, models.student_logits, [run.target], batch_size)


def report_on_run(
    samples: Samples,
    splits: pd.DataFrame,
    plan: Plan,
    results: HeldOutResults,
    linear: dict[str, Any],
) -> tuple[dict[str, Any], pd.DataFrame]:
    """State the metrics of every model, and whether the student is better than the baseline.

    Args:
        samples: The store.
        splits: The run's splits.
        plan: All parameters; target, seed, ``route``, ``evaluate`` and ``given`` count.
        results: From `evaluate_models`.
        linear: From `evaluate_linear_model`; may be empty.

    Returns:
        The content of ``metrics.json``, with ``verdict``, and a table with a row for each model.
    """
    counts = {**results.metric_counts, **({LINEAR: linear} if linear else {})}
    models = {name: measure(of, samples.classes, samples.dense) for name, of in counts.items()}
    settings, selection, metric = plan.evaluate, plan.selection, metric_of(plan.metric)
    names = _by_selection("student", criteria(metric.name), selection)
    bootstrap = Bootstrap(settings.resamples, settings.confidence, plan.seed)
    report = comparison_report(
        results.predictions,
        models,
        {name: name.replace("student", "baseline") for name in names},
        bootstrap,
        None if samples.dense else settings.calibration_bins,
        plan.target,
        metric,
    )
    if linear and models[LINEAR][metric.name] > models["baseline"][metric.name]:
        log.warning(
            "A linear model of %s has a higher test %s (%s) than the baseline (%s): the networks "
            "may be under-trained or unsuitable",
            plan.target,
            metric.title,
            *(metric.text(models[name][metric.name]) for name in (LINEAR, "baseline")),
        )
    sentences = [
        report["verdict"],
        labels_used(samples, splits),
        *labels_seen(samples, splits, plan.given),
        evaluated_samples(samples, splits, plan.target),
    ]
    by_value = metrics_by_value(results.predictions, samples.index, settings.by, bootstrap, metric)
    report = {
        **report,
        "verdict": " ".join(filter(None, sentences)),
        "metric": plan.metric,
        "selection": selection,
        "commonest_class": commonest_class(results.metric_counts["student"], samples.classes),
        "by": json_values(by_value),
        "disagreement": results.disagreement.groupby("group")["kl"].mean().to_dict(),
        "models": json_values(models),
    }
    return report, comparison_table(models)


def _by_selection(title: str, nets: Mapping[str, T], selection: str) -> dict[str, T]:
    """Key networks by a title, which names the selection criterion unless it is the run's own."""
    others = {f"{title} by {name}": net for name, net in nets.items() if name != selection}
    return {title: nets[selection], **others}
