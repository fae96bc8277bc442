"""Nodes of `route`: the specialists' logits, and stage 3."""

from __future__ import annotations

import pandas as pd

from mst_distill.bundle import ModelBundle
from mst_distill.parameters import Masks, Members, Route, Runtime, Teachers
from mst_distill.pipelines.bundles import Partitions, bundle_nets, figures_of, load_nets
from mst_distill.provenance import provenance
from mst_distill.samples import Samples


def compute_specialist_logits(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    masks: Partitions,
    target: str,
    seed: int,
    nets: Members,
    route: Route,
    runtime: Runtime,
) -> pd.DataFrame:
    """Ask every specialist about every sample, once; no rows where stage 3 has to ask online."""
    from mst_distill.distillation.panel import assemble_panel, tabulate_logits
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    panel = assemble_panel(run, load_nets(members), load_nets(masks), nets, route.stacked_masks)
    return tabulate_logits(run, panel, route.batch_size)


def train_student(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    masks: Partitions,
    specialist_logits: pd.DataFrame,
    target: str,
    seed: int,
    nets: Members,
    teachers: Teachers,
    adaptation: Masks,
    route: Route,
    runtime: Runtime,
) -> tuple[ModelBundle, dict[str, ModelBundle], ModelBundle, pd.DataFrame, pd.DataFrame]:
    """Distil the specialists into the student.

    Returns:
        The student, the student under each rule of selection, the router, the history, and who was
        given how many samples.
    """
    from mst_distill.distillation.members import arguments_of
    from mst_distill.distillation.panel import assemble_panel
    from mst_distill.distillation.routing import train_student as train
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    loaded = load_nets(members)
    panel = assemble_panel(run, loaded, load_nets(masks), nets, route.stacked_masks)
    done = train(run, loaded[target], panel, specialist_logits, route)
    origin = provenance(
        samples,
        splits,
        seed,
        target=target,
        members=nets,
        teachers=teachers,
        masks=adaptation,
        route=route,
    )
    classes = len(samples.classes)
    students = bundle_nets(
        done.students,
        lambda _: arguments_of(nets.modalities[target], classes),
        lambda rule: figures_of(done.fit.kept[rule].row, ("accuracy", "ce")),
        origin,
    )
    router = bundle_nets(
        {"router": done.router},
        lambda _: {"classes": classes, "specialists": len(panel.names)},
        lambda _: figures_of(done.fit.kept[route.selection].row, ("accuracy", "ce")),
        origin | {"specialists": list(panel.names)},
    )["router"]
    return students[route.selection], students, router, done.fit.history, done.given
