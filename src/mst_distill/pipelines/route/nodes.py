"""Nodes of `route`: the specialists' logits, and stage 3."""

from __future__ import annotations

import pandas as pd

from mst_distill.bundle import ModelBundle
from mst_distill.checkpoint import Checkpoints
from mst_distill.parameters import Masks, Members, Route, Runtime, Teachers
from mst_distill.pipelines.bundles import (
    Partitions,
    bundle_nets,
    continuing,
    figures_of,
    load_stages,
)
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
    teachers: Teachers,
    adaptation: Masks,
    route: Route,
    runtime: Runtime,
) -> pd.DataFrame:
    """Ask every specialist about every sample, once; no rows where stage 3 has to ask online."""
    from mst_distill.distillation.panel import tabulate_logits
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    before = load_stages(run, members, masks, nets, teachers, adaptation, route.stacked_masks)
    table = tabulate_logits(run, before.panel, route.batch_size)
    table.attrs = {"made_from": before.made_from, "stacked_masks": route.stacked_masks}
    return table


def train_student(
    samples: Samples,
    splits: pd.DataFrame,
    members: Partitions,
    masks: Partitions,
    specialist_logits: pd.DataFrame,
    state: Checkpoints,
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
    from mst_distill.distillation.routing import train_student as train
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    before = load_stages(run, members, masks, nets, teachers, adaptation, route.stacked_masks)
    made = {"made_from": before.made_from, "stacked_masks": route.stacked_masks}
    if specialist_logits.attrs != made:
        raise ValueError(
            "specialist_logits are of other specialists than those that are there: run again from "
            "the node compute_specialist_logits"
        )
    panel = before.panel
    origin = provenance(
        samples,
        splits,
        seed,
        before.made_from,
        target=target,
        members=nets,
        teachers=teachers,
        masks=adaptation,
        route=route,
    )
    run = continuing(run, state, origin, nets)
    done = train(run, before.members[target], panel, specialist_logits, route)
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
