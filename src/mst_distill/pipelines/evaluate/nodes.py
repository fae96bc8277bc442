"""Nodes of `evaluate`: the control, the held-out split, the report."""

from __future__ import annotations

import logging
from typing import Any, TypeVar, get_args

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.parameters import Evaluate, Masks, Members, Route, Runtime, Selection, Teachers
from mst_distill.pipelines.bundles import (
    Partitions,
    bundle_nets,
    continuing,
    figures_of,
    load_finished,
)

T = TypeVar("T")

log = logging.getLogger(__name__)


@depends_on(masks=())
def train_control(
    samples: Samples,
    splits: pd.DataFrame,
    state: Checkpoints,
    target: str,
    seed: int,
    members: Members,
    teachers: Teachers,
    masks: Masks,
    route: Route,
    runtime: Runtime,
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train the student's net without teachers; one net a rule of selection, and the history.

    The ``epoch`` of a net is counted through both phases: it is the history's row.
    """
    from mst_distill.mst.baseline import train_control as train
    from mst_distill.mst.networks import arguments_of
    from mst_distill.training.run import Run

    run = continuing(Run(samples, splits, target, seed, runtime), state)
    controls, done = train(run, members, teachers, masks, route)
    arguments = arguments_of(members.modalities[target], len(samples.classes))
    bundles = bundle_nets(
        controls,
        lambda _: arguments,
        lambda rule: figures_of(done.kept[rule].row, ("accuracy", "ce")),
    )
    return bundles, done.history


def predict_held_out(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    masks: Partitions,
    students: Partitions,
    controls: Partitions,
    target: str,
    seed: int,
    nets: Members,
    route: Route,
    evaluate: Evaluate,
    runtime: Runtime,
) -> tuple[pd.DataFrame, dict[str, Any], pd.DataFrame]:
    """Ask every model about the test split: predictions, tallies, and how far they disagree."""
    from mst_distill.evaluate.predictions import Cast, judge
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    done = load_finished(run, members, masks, students, controls, nets, route)
    before = done.stages
    cast = Cast(
        teachers={name: before.members[name] for name in nets.teachers_of(target)},
        panel=before.panel,
        target=target,
        students={
            "student after stage 1": before.members[target],
            **_by_rule("student", done.students, route.selection),
            **_by_rule("control", done.controls, route.selection),
        },
    )
    judged = judge(run, cast, route.batch_size, evaluate.calibration_bins, route.temperature)
    return judged.predictions, judged.tallies, judged.disagreement


def compare_models(
    samples: Samples,
    predictions: pd.DataFrame,
    tallies: dict[str, Any],
    disagreement: pd.DataFrame,
    target: str,
    seed: int,
    route: Route,
    evaluate: Evaluate,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Figures of merit of every model, and whether the student beats the control.

    Of dense labels the predictions have no confidence by pixel: their calibration errors have a
    difference and no interval.
    """
    from mst_distill.evaluate.bootstrap import Bootstrap
    from mst_distill.evaluate.json_values import json_values
    from mst_distill.evaluate.metrics import measure
    from mst_distill.evaluate.verdict import (
        calibration_difference,
        comparison_table,
        nll_difference,
        paired_difference,
        remarks,
        verdict,
    )

    models = {
        model: measure(tally, samples.classes, samples.dense) for model, tally in tallies.items()
    }
    bootstrap = Bootstrap(evaluate.resamples, evaluate.confidence, seed)
    pairs = {
        student: (student, student.replace("student", "control"))
        for student in _by_rule("student", dict.fromkeys(get_args(Selection)), route.selection)
    }
    gains = {name: paired_difference(predictions, *pair, bootstrap) for name, pair in pairs.items()}
    nll = {name: nll_difference(predictions, *pair, bootstrap) for name, pair in pairs.items()}
    errors = {
        name: {"difference": models[one]["calibration_error"] - models[other]["calibration_error"]}
        if samples.dense
        else calibration_difference(predictions, one, other, evaluate.calibration_bins, bootstrap)
        for name, (one, other) in pairs.items()
    }
    sentence = " ".join(
        [
            verdict(gains["student"], target, evaluate.confidence),
            *remarks(nll["student"], errors["student"], evaluate.confidence),
        ]
    )
    log.info("%s", sentence)
    report = {
        "verdict": sentence,
        "selection": route.selection,
        "gain_over_control": json_values(gains),
        "nll_over_control": json_values(nll),
        "calibration_over_control": json_values(errors),
        "disagreement": disagreement.groupby("group")["kl"].mean().to_dict(),
        "models": models,
    }
    return report, comparison_table(models)


def draw_confusion(tallies: dict[str, Any], samples: Samples) -> Figure:
    """Confusion matrices of student and control."""
    from mst_distill.evaluate.plots import confusion_figure

    return confusion_figure(tallies, samples.classes, ["student", "control"])


def draw_reliability(tallies: dict[str, Any]) -> Figure:
    """Reliability diagrams of multimodal teacher, student and control."""
    from mst_distill.evaluate.plots import reliability_figure

    return reliability_figure(tallies, ["multimodal teacher", "student", "control"])


def draw_learning_curves(
    teachers_history: pd.DataFrame,
    masks_history: pd.DataFrame,
    route_history: pd.DataFrame,
    control_history: pd.DataFrame,
) -> Figure:
    """Validation figures of all three stages by epoch."""
    from mst_distill.evaluate.plots import learning_curves

    return learning_curves(teachers_history, masks_history, route_history, control_history)


def draw_routing(routing: pd.DataFrame) -> Figure:
    """The share of samples that each specialist was given, per epoch and per class."""
    from mst_distill.evaluate.plots import routing_figure

    return routing_figure(routing)


def _by_rule(what: str, nets: dict[str, T], selection: str) -> dict[str, T]:
    """Name nets for the rule that selected them; the run's own rule needs no mention."""
    others = {f"{what} by {rule}": net for rule, net in nets.items() if rule != selection}
    return {what: nets[selection], **others}
