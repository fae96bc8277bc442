"""Nodes of `evaluate`: the baseline, the evaluation on the test split, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.artifacts.student_input import StudentInput
from mst_distill.data.samples import Samples
from mst_distill.pipelines.nets import (
    Partitions,
    bundle_nets,
    load_finished,
    metrics_of,
    open_run_to_train,
    open_run_with_given,
)
from mst_distill.pipelines.reports import (
    DATA,
    OF_A_RUN,
    STAGES,
    describe_student,
    describe_training,
    run_origin,
    run_results,
)
from mst_distill.plan import Plan

if TYPE_CHECKING:
    pass

T = TypeVar("T")

SHOWN = ["student", "baseline", "multimodal teacher"]
"""The models in the figures of calibration."""


@depends_on(
    *("target", "seed", "members", "training", "teachers", "route", "metric", "runtime"),
    masks=(),
    given=(),
)
def train_baseline(
    samples: Samples, splits: pd.DataFrame, checkpoints: Checkpoints, plan: Plan
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train the student's network without teachers.

    The ``epoch`` of a network is counted through both phases: it is the row of the history.

    Returns:
        Selection criterion to network, and the history.
    """
    from mst_distill.mst.baseline import train_baseline as train
    from mst_distill.mst.networks import arguments_of

    baselines, done = train(open_run_to_train(samples, splits, plan, checkpoints), plan)
    arguments = arguments_of(plan.members.modalities[plan.target], len(samples.classes))
    bundles = bundle_nets(
        baselines,
        lambda _: arguments,
        lambda criterion: metrics_of(done.best[criterion].row, plan.validated),
    )
    return bundles, done.history


@depends_on("target", "seed", "members", "given", "route", "metric", "runtime")
def compute_temperatures(
    samples: Samples, splits: pd.DataFrame, plan: Plan, **bundles: Partitions
) -> tuple[dict[str, float], pd.DataFrame]:
    """Fit the temperature of every network on the validation split.

    Args:
        samples: The store.
        splits: The run's splits.
        plan: All parameters.
        bundles: ``members``, ``masks``, ``students`` and ``baselines``.

    Returns:
        Model name to temperature, and the student's predictions on the validation split, with which
        ``predict`` finds a threshold of confidence.
    """
    from mst_distill.evaluate.predictions import predict_validation
    from mst_distill.evaluate.whole_run import models_of, temperatures_of

    run, route = open_run_with_given(samples, splits, plan), plan.route
    models = models_of(load_finished(run, plan, bundles), plan.target, plan.selection)
    temperatures = temperatures_of(run, models, route.batch_size)
    student, temperature = models.students["student"], temperatures["student"]
    predicted = predict_validation(run, "student", student, temperature, route.batch_size)
    return temperatures, predicted


@depends_on("target")
def build_student_input(
    samples: Samples, student: ModelBundle, temperatures: dict[str, float], plan: Plan
) -> StudentInput:
    """Describe how the student's input is read and what its logits mean, for use elsewhere."""
    return StudentInput(
        modality=plan.target,
        shape=tuple(samples.modalities[plan.target].shape[1:]),
        dense=samples.dense,
        classes=samples.classes,
        ignored_label=samples.ignored_label,
        temperature=temperatures["student"],
        weights=student.sha256,
        reader=samples.readers.get(plan.target),
    )


@depends_on("target", "seed", "members", "given", "route", "evaluate", "runtime")
def predict_held_out(
    samples: Samples,
    splits: pd.DataFrame,
    temperatures: dict[str, float],
    plan: Plan,
    **bundles: Partitions,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Evaluate every model on the test split: predictions, metric counts, and disagreement.

    Args:
        samples: The store.
        splits: The run's splits.
        temperatures: Model name to temperature.
        plan: All parameters.
        bundles: ``members``, ``masks``, ``students`` and ``baselines``.
    """
    from mst_distill.evaluate.predictions import evaluate_models
    from mst_distill.evaluate.whole_run import models_of

    run, route = open_run_with_given(samples, splits, plan), plan.route
    models = models_of(load_finished(run, plan, bundles), plan.target, plan.selection)
    bins = plan.evaluate.calibration_bins
    results = evaluate_models(
        run, models, route.batch_size, bins, route.temperature, temperatures, [plan.target]
    )
    return results.predictions, results.metric_counts, results.disagreement


@depends_on("target", "seed", "evaluate")
def train_linear_model(samples: Samples, splits: pd.DataFrame, plan: Plan) -> dict[str, Any]:
    """Metric counts of a linear model of the student's modality; empty for dense labels."""
    from mst_distill.evaluate.linear_model import evaluate_linear_model
    from mst_distill.metric import metric_of

    if samples.dense:
        return {}
    bins, metric = plan.evaluate.calibration_bins, metric_of(plan.metric)
    return evaluate_linear_model(samples, splits, plan.target, bins, plan.seed, metric)


@depends_on("target", "seed", "seen_labels", "route", "evaluate")
def compare_models(
    samples: Samples,
    splits: pd.DataFrame,
    predictions: pd.DataFrame,
    metric_counts: dict[str, Any],
    plan: Plan,
    **others: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The metrics of every model, and whether the student is better than the baseline.

    Args:
        samples: The store.
        splits: The run's splits.
        predictions: From `predict_held_out`.
        metric_counts: From `predict_held_out`.
        plan: All parameters.
        others: ``linear_model_counts`` and ``disagreement``.
    """
    from mst_distill.evaluate.predictions import HeldOutResults
    from mst_distill.evaluate.whole_run import report_on_run

    results = HeldOutResults(predictions, metric_counts, others["disagreement"])
    return report_on_run(samples, splits, plan, results, others["linear_model_counts"])


def draw_confusion(metric_counts: dict[str, Any], samples: Samples) -> Figure:
    """Confusion matrices of student and baseline."""
    from mst_distill.evaluate.plots import confusion_figure

    return confusion_figure(metric_counts, samples.classes, ["student", "baseline"])


def draw_reliability(metric_counts: dict[str, Any]) -> Figure:
    """Reliability diagrams of student, baseline and multimodal teacher, as is and scaled."""
    from mst_distill.evaluate.plots import reliability_figure

    return reliability_figure(metric_counts, SHOWN)


def compute_risk_coverage(predictions: pd.DataFrame) -> pd.DataFrame:
    """The accuracy of student, baseline and multimodal teacher on their most confident samples."""
    from mst_distill.evaluate.calibration import risk_coverage

    answers = ["confidence_scaled", "correct", "labelled"]
    tables = (predictions.loc[predictions["model"] == name, answers] for name in SHOWN)
    curves = (risk_coverage(*table.to_numpy().T) for table in tables)
    shown = [curve.assign(model=name) for name, curve in zip(SHOWN, curves, strict=True)]
    return pd.concat(shown, ignore_index=True)[["model", "coverage", "accuracy", "confidence"]]


def draw_risk_coverage(risk_coverage: pd.DataFrame) -> Figure:
    """The risk-coverage curves."""
    from mst_distill.evaluate.plots import risk_coverage_figure

    return risk_coverage_figure(risk_coverage)


@depends_on("metric")
def draw_learning_curves(
    teachers_history: pd.DataFrame,
    masks_history: pd.DataFrame,
    route_history: pd.DataFrame,
    baseline_history: pd.DataFrame,
    plan: Plan,
) -> Figure:
    """Validation metrics of all three stages by epoch."""
    from mst_distill.evaluate.plots import learning_curves
    from mst_distill.metric import metric_of

    histories = (teachers_history, masks_history, route_history, baseline_history)
    return learning_curves(*histories, metric_of(plan.metric))


def draw_routing(routing: pd.DataFrame) -> Figure:
    """The share of training samples that each specialist was selected for, by epoch and class."""
    from mst_distill.evaluate.plots import routing_figure

    return routing_figure(routing)


@depends_on(*OF_A_RUN)
def build_report(
    samples: Samples,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    metric_counts: dict[str, Any],
    plan: Plan,
    **shown: Any,
) -> str:
    """The report of the run, as one file of HTML.

    Args:
        samples: The store.
        predictions: From `predict_held_out`.
        metrics: From `compare_models`.
        metric_counts: From `predict_held_out`.
        plan: All parameters.
        shown: ``student``, and catalog entries of figures to PNG.
    """
    from mst_distill.report.run_page import run_page

    results = run_results(predictions, metrics, metric_counts, plan)
    origin = run_origin(build_report, shown.pop("student"), plan)
    return run_page(samples, results, origin, shown)


@depends_on(*DATA, *STAGES, "card", benchmark=("type",))
def build_model_card(
    samples_report: dict[str, Any],
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    metric_counts: dict[str, Any],
    plan: Plan,
    **described: Any,
) -> str:
    """The model card of the student, as Markdown.

    Args:
        samples_report: From `summarise_samples`.
        predictions: From `predict_held_out`.
        metrics: From `compare_models`.
        metric_counts: From `predict_held_out`.
        plan: All parameters.
        described: ``student`` and ``student_input``.
    """
    from mst_distill.report.model_card import CardContents, model_card

    student: ModelBundle = described["student"]
    contents = CardContents(
        card=plan.card.of(plan.benchmark.type),
        benchmark=plan.benchmark.type,
        student=describe_student(student),
        training=describe_training(student, plan),
        samples_report=samples_report,
        protocol=plan.protocol,
        limit=plan.limit,
        student_input=described["student_input"],
    )
    return model_card(run_results(predictions, metrics, metric_counts, plan), contents)
