"""Nodes of `route`: the specialists' logits, and stage 3."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.parameters import Members, Route, Runtime
from mst_distill.pipelines.bundles import (
    Partitions,
    bundle_nets,
    continuing,
    figures_of,
    load_stages,
)


@depends_on(route=("stacked_masks", "masked"))
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
    from mst_distill.mst.ensemble import tabulate_logits
    from mst_distill.training.run import Run

    run = Run(samples, splits, target, seed, runtime)
    before = load_stages(run, members, masks, nets, route)
    return tabulate_logits(run, before.panel, route.batch_size)


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
    route: Route,
    runtime: Runtime,
) -> tuple[ModelBundle, dict[str, ModelBundle], ModelBundle, pd.DataFrame, pd.DataFrame]:
    """Distil the specialists into the student.

    Returns:
        The student, the student under each rule of selection, the router, the history, and who was
        given how many samples.
    """
    from mst_distill.mst.networks import arguments_of
    from mst_distill.mst.stage3_route import router_class
    from mst_distill.mst.stage3_route import train_student as train
    from mst_distill.training.run import Run

    run = continuing(Run(samples, splits, target, seed, runtime), state)
    before = load_stages(run, members, masks, nets, route)
    panel = before.panel
    student = before.members[target]
    _, of_router = router_class(run, route, student)
    done = train(run, student, panel, specialist_logits, route)
    classes = len(samples.classes)
    students = bundle_nets(
        done.students,
        lambda _: arguments_of(nets.modalities[target], classes),
        lambda rule: figures_of(done.fit.kept[rule].row, ("accuracy", "ce")),
    )
    router = ModelBundle.of(
        done.router,
        {**of_router, "specialists": len(panel.names)},
        metrics=figures_of(done.fit.kept[route.selection].row, ("accuracy", "ce")),
        provenance={"specialists": list(panel.names)},
    )
    return students[route.selection], students, router, done.fit.history, done.given
