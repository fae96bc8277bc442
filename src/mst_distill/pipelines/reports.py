"""Collects what the reports on a run show."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.provenance import counted_parameters
from mst_distill.parameters import Training
from mst_distill.plan import Plan

if TYPE_CHECKING:
    from mst_distill.report.run_page import RunOrigin
    from mst_distill.report.tables import RunResults

DATA = ("target", "protocol", "deal", "limit", "seed", "labelled", "labelled_validation")
STAGES = (
    *(
        "labelled_per_batch",
        "members",
        "training",
        "teachers",
        "given",
        "seen_labels",
        "masks",
        "route",
    ),
    "evaluate",
)
OF_A_RUN = ("run", "benchmark", *DATA, *STAGES, "runtime")
"""The parameters that a run depends on, which its report lists."""


def run_results(
    predictions: pd.DataFrame, metrics: dict[str, Any], metric_counts: dict[str, Any], plan: Plan
) -> RunResults:
    """The results of a run on the test split."""
    from mst_distill.evaluate.bootstrap import Bootstrap
    from mst_distill.report.tables import RunResults

    settings = plan.evaluate
    bootstrap = Bootstrap(settings.resamples, settings.confidence, plan.seed)
    return RunResults(plan.target, metrics, metric_counts, predictions, bootstrap)


def run_origin(node: Callable[..., Any], student: ModelBundle, plan: Plan) -> RunOrigin:
    """The origin of a run, with the parameters that the node declares."""
    from mst_distill.report.run_page import RunOrigin

    parameters = counted_parameters(node, plan)
    return RunOrigin(
        plan.benchmark.type, parameters, describe_student(student), _describe_recipe(plan)
    )


def _describe_recipe(plan: Plan) -> str:
    """How the nets were trained, in one line."""
    given = (f"{name}: {text}" for name, text in _describe_given(plan).items())
    return "; ".join([_describe_nets(plan), *given])


def _describe_nets(plan: Plan) -> str:
    """How the nets were trained that are trained here, in one line."""
    return "; ".join(filter(None, [plan.training.summary, plan.members.summary]))


def _describe_given(plan: Plan) -> dict[str, str]:
    """The given teachers, title to text."""
    return {f"given teacher {name}": teacher.summary for name, teacher in plan.given.items()}


def describe_student(student: ModelBundle) -> tuple[str, int, str]:
    """The class of a student, the number of its weights and the SHA-256 of their file."""
    weights = sum(parameter.numel() for parameter in student.net.parameters())
    return student.type, weights, student.sha256


def describe_training(student: ModelBundle, plan: Plan) -> dict[str, str]:
    """What a student was trained with, name to text."""
    from mst_distill.metric import metric_of

    teachers = plan.members.teachers_of(plan.target)
    route, criterion = plan.route, plan.selection
    if route.selection == "metric":
        criterion = metric_of(plan.metric).title
    if criterion == "accuracy" and plan.training.class_weights == "balanced":
        criterion = "the mean recall of the classes"
    chosen = "" if route.top_k is None else f", {route.top_k} of the specialists for a sample"
    return {
        "teachers": ", ".join(f"{name} ({net.type})" for name, net in teachers.items()),
        **_describe_given(plan),
        "stage 1, teachers and student": _describe_stage(plan.teachers),
        "stage 2, masks of the teachers": _describe_stage(plan.masks),
        "stage 3, distillation": _describe_stage(route),
        "recipe": _describe_nets(plan),
        "router": f"{route.router}{chosen}",
        "epoch": f"{student.metrics['epoch']}, selected on the validation split by {criterion}",
        "seed": f"{plan.seed}",
    }


def _describe_stage(stage: Training) -> str:
    return (
        f"{stage.epochs} epochs, batches of {stage.batch_size}, learning rate {stage.learning_rate}"
    )
