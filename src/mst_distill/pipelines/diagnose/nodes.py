"""Nodes of `diagnose`: paths, reliance, drift, headroom and routing of a finished run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.data.samples import Samples
from mst_distill.parameters import (
    Diagnose,
    Evaluate,
    Members,
    Route,
    Runtime,
)
from mst_distill.pipelines.bundles import (
    Finished,
    Partitions,
    bundle_nets,
    continuing,
    figures_of,
    load_finished,
    load_nets,
    load_stages,
)

if TYPE_CHECKING:
    from torch import nn

    from mst_distill.diagnose.drift import Viewers
    from mst_distill.training.run import Run

SHOWN = 4
"""Samples in the figure of drift."""

log = logging.getLogger(__name__)


def train_paths(
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
    runtime: Runtime,
    specialist_logits: pd.DataFrame,
    state: Checkpoints,
) -> dict[str, ModelBundle]:
    """Distil every teacher and specialist by itself into the student that stage 3 begins with."""
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.paths import train_paths as train
    from mst_distill.mst.networks import arguments_of
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    done = load_finished(run, members, masks, students, controls, nets, route)
    before = done.stages
    run = continuing(run, state)
    sources = sources_of(run, _teachers(done, nets, target), before.panel)
    student = before.members[target]
    paths = train(run, student, sources, before.panel, specialist_logits, route)
    arguments = arguments_of(nets.modalities[target], len(samples.classes))
    return bundle_nets(
        {source: path.student for source, path in paths.items()},
        lambda _: arguments,
        lambda source: figures_of(paths[source].row, ("accuracy", "ce")),
    )


def predict_sources(
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
    runtime: Runtime,
    router: ModelBundle,
    path_students: Partitions,
    evaluate: Evaluate,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Ask sources, mixtures and students about the test split; the router, what it prefers."""
    from mst_distill.diagnose.evaluated_models import Company
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.path_effects import path_title
    from mst_distill.diagnose.routing_probabilities import preference_table
    from mst_distill.evaluate.predictions import judge
    from mst_distill.mst.features import Observer
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    done = load_finished(run, members, masks, students, controls, nets, route)
    before, student = done.stages, done.students[route.selection]
    observer = Observer(target, run.place(student), (), samples)
    paths = load_nets(path_students)
    taught = _teachers(done, nets, target)
    sources = sources_of(run, taught, before.panel)
    company = Company(
        teachers=taught,
        panel=before.panel,
        target=target,
        students={
            "student": student,
            "control": done.controls[route.selection],
            **{path_title(source.title): paths[source.title] for source in sources},
        },
        observer=observer,
        router=router.net,
        picked=route.picked,
    )
    judged = judge(run, company, route.batch_size, evaluate.calibration_bins, route.temperature)
    preferred = preference_table(run, observer, router.net, before.panel.names, route.batch_size)
    return judged.predictions, judged.disagreement, preferred


def compute_drift(
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
    runtime: Runtime,
    diagnose: Diagnose,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask where student and sources look, and how alike what they say is."""
    from mst_distill.diagnose.drift import choose_rows, drift_table, look, similarity_table
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    done = load_finished(run, members, masks, students, controls, nets, route)
    viewers = _viewers(run, done, nets, route)
    rows = choose_rows(run, diagnose.samples)
    views = look(run, viewers, rows, route.batch_size)
    return drift_table(run, views), similarity_table(run, viewers, rows, route.batch_size)


def compute_reliance(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    masks: Partitions,
    target: str,
    seed: int,
    nets: Members,
    route: Route,
    runtime: Runtime,
    evaluate: Evaluate,
) -> pd.DataFrame:
    """Permute one modality after the other, and see what nets lose that see several."""
    from mst_distill.diagnose.knowledge_sources import sources_of
    from mst_distill.diagnose.reliance import reliance_table
    from mst_distill.evaluate.bootstrap import Bootstrap
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    before = load_stages(run, members, masks, nets, route)
    teachers = {name: before.members[name] for name in nets.teachers_of(target)}
    sources = sources_of(run, teachers, before.panel)
    bootstrap = Bootstrap(evaluate.resamples, evaluate.confidence, seed)
    return reliance_table(run, sources, route.batch_size, bootstrap)


def compare_paths(
    samples: Samples, predictions: pd.DataFrame, seed: int, evaluate: Evaluate
) -> pd.DataFrame:
    """Hold the student of every path against the control, class by class."""
    from mst_distill.diagnose.path_effects import path_table
    from mst_distill.diagnose.prediction_matrix import Outcomes
    from mst_distill.evaluate.bootstrap import Bootstrap

    return path_table(
        Outcomes.of(predictions),
        "control",
        () if samples.dense else samples.classes,
        Bootstrap(evaluate.resamples, evaluate.confidence, seed),
    )


def summarise_diagnosis(
    samples: Samples,
    predictions: pd.DataFrame,
    disagreement: pd.DataFrame,
    preferences: pd.DataFrame,
    paths: pd.DataFrame,
    drift: pd.DataFrame,
    similarity: pd.DataFrame,
    reliance: pd.DataFrame,
    routing: pd.DataFrame,
    target: str,
    seed: int,
    route: Route,
    evaluate: Evaluate,
) -> dict[str, Any]:
    """Say in sentences and figures what distillation did."""
    from mst_distill.diagnose.prediction_matrix import Outcomes
    from mst_distill.diagnose.report import Found, diagnose
    from mst_distill.diagnose.routing_probabilities import held_out_weights
    from mst_distill.evaluate.bootstrap import Bootstrap

    specialists = [str(name) for name in preferences if name != "id"]
    sources = list(dict.fromkeys(paths["source"]))
    found = Found(
        target=target,
        classes=() if samples.dense else samples.classes,
        groups={
            "teachers": [source for source in sources if source not in specialists],
            "specialists": specialists,
        },
        outcomes=Outcomes.of(predictions),
        weights=held_out_weights(preferences, route.picked),
        disagreement=disagreement,
        paths=paths,
        drift=drift,
        similarity=similarity,
        reliance=reliance,
        routing=routing,
    )
    report = diagnose(found, Bootstrap(evaluate.resamples, evaluate.confidence, seed))
    for sentence in report["says"]:
        log.info("%s", sentence)
    return report


def draw_paths(paths: pd.DataFrame, evaluate: Evaluate) -> Figure:
    """What each source alone does for the student, by class."""
    from mst_distill.diagnose.plots import paths_figure

    return paths_figure(paths, evaluate.confidence)


def draw_drift(
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
    runtime: Runtime,
    drift: pd.DataFrame,
) -> Figure:
    """The samples on which student and multimodal teacher look at the most different places."""
    from mst_distill.diagnose.drift import drift_views, look, most_drifted
    from mst_distill.diagnose.plots import drift_figure
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    done = load_finished(run, members, masks, students, controls, nets, route)
    viewers = _viewers(run, done, nets, route)
    views = look(run, viewers, most_drifted(run, drift, SHOWN), route.batch_size)
    return drift_figure(drift_views(run, views), target)


def draw_headroom(diagnosis: dict[str, Any], evaluate: Evaluate) -> Figure:
    """How far the best source, the mixture, the router and the oracle are from one another."""
    from mst_distill.diagnose.plots import headroom_figure

    return headroom_figure(diagnosis["headroom"], evaluate.confidence)


def _teachers(done: Finished, nets: Members, target: str) -> dict[str, nn.Module]:
    return {name: done.stages.members[name] for name in nets.teachers_of(target)}


def _viewers(run: Run, done: Finished, nets: Members, route: Route) -> Viewers:
    from mst_distill.diagnose.drift import Viewers
    from mst_distill.diagnose.knowledge_sources import sources_of

    teachers = _teachers(done, nets, run.target)
    student = run.place(done.students[route.selection]).eval()
    return Viewers(student, teachers, sources_of(run, teachers, done.stages.panel))
