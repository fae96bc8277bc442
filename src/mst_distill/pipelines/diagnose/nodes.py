"""Nodes of `diagnose`: paths, reliance, drift, headroom and routing of a finished run.

Several nodes take the networks of the finished run as keyword arguments: the entries ``members``,
``masks``, ``students`` and ``baselines``.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.pipelines.nets import (
    Partitions,
    bundle_nets,
    load_finished,
    load_nets,
    metrics_of,
    open_run_with_given,
)
from mst_distill.pipelines.reports import OF_A_RUN, run_origin, run_results
from mst_distill.plan import Plan

if TYPE_CHECKING:
    from mst_distill.diagnose.drift import AttributedModels
    from mst_distill.evaluate.bootstrap import Bootstrap
    from mst_distill.mst.finished_run import FinishedRun
    from mst_distill.training.run import Run

SHOWN = 4
"""The number of samples in the figure of drift."""

log = logging.getLogger(__name__)


@depends_on(
    *("target", "seed", "labelled_per_batch", "members", "training", "given", "route"),
    *("metric", "runtime"),
)
def train_paths(
    samples: Samples,
    splits: pd.DataFrame,
    specialist_logits: pd.DataFrame,
    checkpoints: Checkpoints,
    plan: Plan,
    **bundles: Partitions,
) -> dict[str, ModelBundle]:
    """Distil each teacher and specialist alone into the student of stage 1."""
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.paths import train_paths as train
    from mst_distill.mst.networks import arguments_of

    run = open_run_with_given(samples, splits, plan, checkpoints)
    finished = load_finished(run, plan, bundles)
    sources = sources_of(finished.ensemble)
    student = finished.members[plan.target]
    per_batch = plan.labelled_per_batch
    paths = train(
        run, student, sources, finished.ensemble, specialist_logits, plan.route, per_batch
    )
    arguments = arguments_of(plan.members.modalities[plan.target], len(samples.classes))
    return bundle_nets(
        {source: path.student for source, path in paths.items()},
        lambda _: arguments,
        lambda source: metrics_of(paths[source].row, plan.validated),
    )


@depends_on("target", "seed", "members", "given", "route", "evaluate", "runtime")
def predict_sources(
    samples: Samples,
    splits: pd.DataFrame,
    router: ModelBundle,
    path_students: Partitions,
    plan: Plan,
    **bundles: Partitions,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Evaluate sources, mixtures, students and the router on the test split.

    Returns:
        The predictions, the disagreement, and the routing probabilities.
    """
    from mst_distill.diagnose.evaluated_models import EvaluatedMixtures
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.path_effects import path_title
    from mst_distill.diagnose.routing_probabilities import routing_probability_table
    from mst_distill.evaluate.predictions import evaluate_models
    from mst_distill.metric import ACCURACY
    from mst_distill.mst.features import FeatureExtractor

    # The diagnosis is by accuracy and likelihood, whatever the metric that decides.
    run = replace(open_run_with_given(samples, splits, plan), metric=ACCURACY)
    route = plan.route
    finished = load_finished(run, plan, bundles)
    student, ensemble = finished.students[plan.selection], finished.ensemble
    extractor = FeatureExtractor(plan.target, run.place(student), (), samples)
    paths = load_nets(path_students)
    sources = sources_of(ensemble)
    models = EvaluatedMixtures(
        teachers=finished.teachers,
        ensemble=ensemble,
        target=plan.target,
        students={
            "student": student,
            "baseline": finished.baselines[plan.selection],
            **{path_title(source.title): paths[source.title] for source in sources},
        },
        extractor=extractor,
        router=router.net,
        top_k=route.top_k,
    )
    bins = plan.evaluate.calibration_bins
    results = evaluate_models(run, models, route.batch_size, bins, route.temperature)
    probabilities = routing_probability_table(
        run, extractor, router.net, ensemble.names, route.batch_size
    )
    return results.predictions, results.disagreement, probabilities


@depends_on("target", "seed", "members", "given", "route", "metric", "diagnose", "runtime")
def compute_drift(
    samples: Samples, splits: pd.DataFrame, plan: Plan, **bundles: Partitions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare saliency maps, features and logits of student and sources."""
    from mst_distill.diagnose.drift import (
        choose_rows,
        drift_table,
        saliency_maps,
        similarity_table,
    )

    run, size = open_run_with_given(samples, splits, plan), plan.route.batch_size
    models = _attributed_models(run, load_finished(run, plan, bundles), plan)
    rows = choose_rows(run, plan.diagnose.samples)
    maps = saliency_maps(run, models, rows, size)
    return drift_table(run, maps), similarity_table(run, models, rows, size)


@depends_on("target", "seed", "members", "given", "route", "evaluate", "runtime")
def compute_reliance(
    samples: Samples, splits: pd.DataFrame, members: Partitions, masks: Partitions, plan: Plan
) -> pd.DataFrame:
    """Measure how much worse networks with several modalities become when one is permuted."""
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.reliance import reliance_table

    run = open_run_with_given(samples, splits, plan)
    finished = load_finished(run, plan, {"members": members, "masks": masks})
    sources = sources_of(finished.ensemble)
    return reliance_table(run, sources, plan.route.batch_size, _bootstrap(plan))


@depends_on("seed", "evaluate")
def compare_paths(samples: Samples, source_predictions: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Compare the student of every path with the baseline, class by class."""
    from mst_distill.diagnose.path_effects import path_table
    from mst_distill.diagnose.prediction_matrix import PredictionMatrix

    matrix = PredictionMatrix.of(source_predictions)
    classes = () if samples.dense else samples.classes
    return path_table(matrix, "baseline", classes, _bootstrap(plan))


@depends_on("target", "seed", "route", "evaluate")
def summarise_diagnosis(
    samples: Samples,
    source_predictions: pd.DataFrame,
    source_disagreement: pd.DataFrame,
    routing_probabilities: pd.DataFrame,
    plan: Plan,
    **tables: pd.DataFrame,
) -> dict[str, Any]:
    """State in sentences and numbers what distillation did.

    Args:
        samples: The store.
        source_predictions: From `predict_sources`.
        source_disagreement: From `predict_sources`.
        routing_probabilities: From `predict_sources`.
        plan: All parameters.
        tables: ``paths``, ``drift``, ``similarity``, ``reliance`` and ``routing``.
    """
    from mst_distill.diagnose.prediction_matrix import PredictionMatrix
    from mst_distill.diagnose.report import Findings, diagnose
    from mst_distill.diagnose.routing_probabilities import held_out_weights

    specialists = [str(name) for name in routing_probabilities if name != "id"]
    sources = list(dict.fromkeys(tables["paths"]["source"]))
    findings = Findings(
        target=plan.target,
        classes=() if samples.dense else samples.classes,
        groups={
            "teachers": [source for source in sources if source not in specialists],
            "specialists": specialists,
        },
        matrix=PredictionMatrix.of(source_predictions),
        weights=held_out_weights(routing_probabilities, plan.route.top_k),
        disagreement=source_disagreement,
        **tables,
    )
    report = diagnose(findings, _bootstrap(plan))
    for sentence in report["sentences"]:
        log.info("%s", sentence)
    return report


@depends_on("evaluate")
def draw_paths(paths: pd.DataFrame, plan: Plan) -> Figure:
    """The effect of each source alone on the student, by class."""
    from mst_distill.diagnose.plots import paths_figure

    return paths_figure(paths, plan.evaluate.confidence)


@depends_on("target", "seed", "members", "given", "route", "metric", "runtime")
def draw_drift(
    samples: Samples,
    splits: pd.DataFrame,
    drift: pd.DataFrame,
    plan: Plan,
    **bundles: Partitions,
) -> Figure:
    """The samples with the smallest overlap of student and multimodal teacher."""
    from mst_distill.diagnose.drift import drift_examples, most_drifted, saliency_maps
    from mst_distill.diagnose.plots import drift_figure

    run = open_run_with_given(samples, splits, plan)
    models = _attributed_models(run, load_finished(run, plan, bundles), plan)
    rows = most_drifted(run, drift, SHOWN)
    maps = saliency_maps(run, models, rows, plan.route.batch_size)
    return drift_figure(drift_examples(run, maps), plan.target)


@depends_on("evaluate")
def draw_headroom(diagnosis: dict[str, Any], plan: Plan) -> Figure:
    """The accuracy of the best source, the mixture, the router and the oracle."""
    from mst_distill.diagnose.plots import headroom_figure

    return headroom_figure(diagnosis["headroom"], plan.evaluate.confidence)


@depends_on(*OF_A_RUN, "diagnose")
def build_diagnosed_report(
    samples: Samples,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    metric_counts: dict[str, Any],
    plan: Plan,
    **shown: Any,
) -> str:
    """The report of the run together with its diagnosis, as one file of HTML.

    Args:
        samples: The store.
        predictions: From `predict_held_out`.
        metrics: From `compare_models`.
        metric_counts: From `predict_held_out`.
        plan: All parameters.
        shown: ``student``, ``diagnosis``, and catalog entries of figures to PNG.
    """
    from mst_distill.report.run_page import run_page

    results = run_results(predictions, metrics, metric_counts, plan)
    origin = run_origin(build_diagnosed_report, shown.pop("student"), plan)
    sentences = shown.pop("diagnosis")["sentences"]
    return run_page(samples, results, origin, shown, sentences)


def _attributed_models(run: Run, finished: FinishedRun, plan: Plan) -> AttributedModels:
    from mst_distill.diagnose.drift import AttributedModels
    from mst_distill.diagnose.knowledge_sources import sources_of

    teachers = finished.teachers
    student = run.place(finished.students[plan.selection]).eval()
    return AttributedModels(student, teachers, sources_of(finished.ensemble))


def _bootstrap(plan: Plan) -> Bootstrap:
    from mst_distill.evaluate.bootstrap import Bootstrap

    return Bootstrap(plan.evaluate.resamples, plan.evaluate.confidence, plan.seed)
