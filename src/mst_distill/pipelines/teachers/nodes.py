"""Nodes of `teachers`: stage 1."""

from __future__ import annotations

import pandas as pd

from mst_distill.artifacts.bundle import ModelBundle
from mst_distill.artifacts.checkpoint import Checkpoints
from mst_distill.artifacts.provenance import depends_on
from mst_distill.data.samples import Samples
from mst_distill.parameters import Masks, Members, Runtime, Teachers
from mst_distill.pipelines.bundles import bundle_nets, continuing, figures_of


@depends_on(masks=())
def train_members(
    samples: Samples,
    splits: pd.DataFrame,
    state: Checkpoints,
    target: str,
    seed: int,
    members: Members,
    teachers: Teachers,
    masks: Masks,
    runtime: Runtime,
) -> tuple[dict[str, ModelBundle], pd.DataFrame]:
    """Train teachers and student together; all members by name, and the history."""
    from mst_distill.mst.networks import arguments_of
    from mst_distill.mst.stage1_teachers import row_of
    from mst_distill.mst.stage1_teachers import train_members as train
    from mst_distill.training.run import Run

    run = continuing(Run(samples, splits, target, seed, runtime), state)
    nets, done = train(run, members, teachers, masks)
    specs = members.all_of(target)
    bundles = bundle_nets(
        nets,
        lambda name: arguments_of(specs[name], len(samples.classes)),
        lambda name: figures_of(row_of(done, name), ("accuracy", "ce"), f"_{name}"),
    )
    return bundles, done.history
